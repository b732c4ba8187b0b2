"""What `ray job submit --working-dir .` uploads: the code, and neither data nor the virtual environment."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from ray._private.runtime_env.packaging import create_package

REPOSITORY = Path(__file__).parents[2]
STAYS = (
    ".venv/bin/python",
    ".git/HEAD",
    "shards/icentia11k/shard-00000/signal.npy",
    "runs/beat/checkpoints/step-000100/model.safetensors",
    "elsewhere/records.parquet",
    "elsewhere/100.dat",
    "tests/test_cli.py",
)


def _packed(folder: Path, package: Path) -> set[str]:
    create_package(str(folder), package, include_gitignore=True, include_parent_dir=False)
    return {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}


def test_data_and_environment_stay_at_home(tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    goes = {"jobs/pretrain.py", "ecgray/shards/archive.py", "ecgray/report/page.html", "cluster/environment.sh"}
    for name in (*STAYS, *goes):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    for name in (".gitignore", ".rayignore"):
        shutil.copy(REPOSITORY / name, folder)
    assert _packed(folder, tmp_path / "package.zip") == goes | {".gitignore", ".rayignore"}


def test_this_repository_is_a_small_package(tmp_path: Path) -> None:
    packed = _packed(REPOSITORY, tmp_path / "package.zip")
    assert {"jobs/pretrain.py", "ecgray/__init__.py", "ecgray/shards/archive.py", "constraints.txt"} <= packed
    assert (tmp_path / "package.zip").stat().st_size < 5 << 20
