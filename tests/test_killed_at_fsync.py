"""Every verb that writes, killed at a flush to the disk and started again: the same result, and nothing beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ecgray.cli import main

CINC2017 = Path(__file__).parent / "data" / "cinc2017"
SMALL = {
    "finetune": """finetune weimann2021_cinc2017 --resume --pretrained none --seeds 1 --model.width 4 --data.seconds 5
        --protocol.epochs 1 --protocol.batch-size 16 --protocol.val-fraction 0.2 --data.train-fraction 0.5""",
    "pretrain": """pretrain weimann2021_beat --resume --model.width 4 --training.steps 4 --training.validate-every 2
        --training.checkpoint-every 2 --training.batch-size 8 --training.threads 1 --sampling.frame-size 256
        --sampling.val-fraction 0.3 --sampling.val-frames-per-patient 4""",
}


@pytest.fixture(scope="module")
def made(labelled_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A finetuning run, and records that it has not seen."""
    root = tmp_path_factory.mktemp("made")
    assert main(["synthesise", "labelled", str(root / "files"), "--records", "20", "--seed", "9"]) == 0
    assert main(["ingest", "synthetic", str(root / "files"), "--out", str(root / "other"), "--workers", "0"]) == 0
    assert main([*SMALL["finetune"].split(), "--data", str(labelled_shards), "--out", str(root / "run")]) == 0
    return {"run": str(root / "run"), "files": str(root / "files"), "other": str(root / "other")}


def killed(root: Path, words: list[str], every: int) -> dict[str, Any]:
    """What tests/killed_at_fsync.py found, of each kill that it went on with exit code 0 or was done already."""
    job = {"words": words, "again": words, "root": str(root), "every": every}
    command = [sys.executable, str(Path(__file__).with_name("killed_at_fsync.py")), json.dumps(job)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert len(found["tries"]) >= 2 and any(each["left"] for each in found["tries"])
    for each in found["tries"]:
        assert each["litter"] == [] and "damaged" not in each["state"], each
        assert each["code"] == 0 or (words[0] in ("predict", "evaluate") and not each["left"]), done.stderr
    return found


def files_of(folder: Path) -> set[str]:
    """All but TensorBoard's, whose names hold when a process began."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.parent.name != "events"}


def same(found: dict[str, Any], *names: str) -> None:
    """The same files everywhere, and these with the bytes of the process that nobody killed."""
    whole = Path(found["whole"])
    for each in found["tries"]:
        place = Path(each["place"])
        assert files_of(place) == files_of(whole)
        for name in names:
            assert (place / name).read_bytes() == (whole / name).read_bytes(), (each, name)


def test_ingest(tmp_path: Path) -> None:
    found = killed(tmp_path / "tries", ["ingest", "cinc2017", str(CINC2017), "--out", "OUT", "--workers", "0"], 5)
    same(found, "out/manifest.json", "out/records.parquet", "out/shard-00000/signal.npy")


def test_pretrain(small_archive: Path, tmp_path: Path) -> None:
    found = killed(tmp_path / "tries", [*SMALL["pretrain"].split(), "--data", str(small_archive), "--out", "OUT"], 9)
    same(found, *(f"out/checkpoints/step-000004/{name}.safetensors" for name in ("model", "optimiser")))


def test_finetune(labelled_shards: Path, tmp_path: Path) -> None:
    found = killed(tmp_path / "tries", [*SMALL["finetune"].split(), "--data", str(labelled_shards), "--out", "OUT"], 7)
    same(found, "out/predictions.parquet", "out/scores.json", "out/seeds/seed-00/model.safetensors")


def test_evaluate(made: dict[str, str], tmp_path: Path) -> None:
    found = killed(tmp_path / "tries", ["evaluate", made["run"], "--data", made["other"], "--out", "OUT"], 2)
    same(found, "out/predictions.parquet", "out/scores.json")


def test_predict(made: dict[str, str], tmp_path: Path) -> None:
    found = killed(tmp_path / "tries", ["predict", made["run"], made["files"], "--out", "OUT.csv"], 1)
    same(found, "out.csv")


def test_report(made: dict[str, str], tmp_path: Path) -> None:
    found = killed(tmp_path / "tries", ["report", made["run"], "--out", "OUT"], 4)
    same(found, "out/report.html", "out/report.md", "out/scores.csv", "out/seeds.png")


def test_an_evaluation_goes_into_no_folder_with_others_files(made: dict[str, str], tmp_path: Path) -> None:
    """What a killed one leaves begins with its scores: a table of ``ecgray predict`` is none."""
    words = ["evaluate", made["run"], "--data", made["other"], "--out", str(tmp_path)]
    for names in (["predictions.parquet"], ["scores.json", "evaluation.json"], ["scores.json", "mine"]):
        for name in names:
            (tmp_path / name).write_text("mine")
        assert main(words) == 2
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
        for name in names:
            assert (tmp_path / name).read_text() == "mine"
            (tmp_path / name).unlink()
    (tmp_path / "scores.json").write_text("torn")
    assert main(words) == 0
