"""Fixtures for every room: where the real recordings lie, if they do."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

# No test fails for being slow on a machine that has other things to do.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

if process := os.environ.get("PYTEST_XDIST_WORKER"):
    # Each of the processes that run tests has a Ray of its own, which looks for no other where it keeps its sessions.
    os.environ["RAY_TMPDIR"] = os.path.join(tempfile.gettempdir(), f"ray-{process}")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings (icentia11k/, mitdb/, cinc2017/): $ECGRAY_DATA or ~/.cache/ecgray-data.

    Where an archive of them lies beside the repository, it is unpacked there first.
    """
    root = Path(os.environ.get("ECGRAY_DATA", "~/.cache/ecgray-data")).expanduser()
    unpack = Path(__file__).parents[2] / "shared" / "tools" / "unpack_data.sh"
    if not (root / "mitdb").is_dir() and unpack.is_file():
        subprocess.run(["bash", str(unpack), str(root)], check=True, stdout=subprocess.DEVNULL)
    if not (root / "mitdb").is_dir():
        pytest.skip("real recordings are not on this machine (set ECGRAY_DATA)")
    return root


@pytest.fixture(scope="session")
def random_records() -> ModuleType:
    """tests/shards/random_records.py; tests are no package, so that it is loaded by its path."""
    return _loaded(Path(__file__).parent / "shards" / "random_records.py")


def _loaded(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small_archive(tmp_path_factory: pytest.TempPathFactory, random_records: ModuleType) -> Path:
    """A shard set of 12 random patients at 250 Hz, three records of 60 to 90 s each, in several shards."""
    from ecgray.shards.writer import write_shard_set

    path = tmp_path_factory.mktemp("shards") / "small"
    write_shard_set(random_records.random_records(), path, shard_mb=0.3)
    return path


@pytest.fixture(scope="session")
def labelled_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set of 80 synthetic labelled records."""
    from ecgray.databases import DATABASES
    from ecgray.databases.synthesise import write_labelled
    from ecgray.shards.ingest import ingest

    root = tmp_path_factory.mktemp("labelled")
    write_labelled(root / "files", records=80, seed=0)
    ingest(DATABASES["synthetic"](), root / "files", root / "shards", workers=0, progress=False)
    return root / "shards"


@pytest.fixture(scope="session")
def make_config(small_archive: Path) -> Callable[..., Any]:
    """``make_config(task, width, **training)``: 12 steps of 16 frames of 256 samples, one thread."""
    from ecgray.models import ResNet
    from ecgray.sampling.plan import SamplingConfig
    from ecgray.tasks import TASKS
    from ecgray.training.config import DataConfig, PretrainConfig, TrainingConfig

    def make(task: str = "beat", width: int = 8, **training: Any) -> PretrainConfig:
        settings = TrainingConfig(
            steps=12, batch_size=16, validate_every=4, checkpoint_every=3, log_every=5, keep_checkpoints=2, threads=1
        )
        return PretrainConfig(
            recipe="test",
            data=DataConfig(shards=(str(small_archive),)),
            sampling=SamplingConfig(
                frame_size=256, frames_per_visit=16, pool_patients=3, val_fraction=0.25, val_frames_per_patient=5
            ),
            task=TASKS[task](),
            model=ResNet(width=width),
            training=replace(settings, **training),
        )

    return make


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Any]:
    """A real S3 server on loopback and the environment that leads to it (tests/s3_server.py)."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    module = _loaded(Path(__file__).parent / "s3_server.py")
    with module.running() as server:
        yield server


@pytest.fixture
def s3(s3_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The server, open, and a node cache of the test's own."""
    monkeypatch.setenv("ECGRAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ECGRAY_STORAGE_PATIENCE_S", "60")
    yield s3_server
    s3_server.open()


@pytest.fixture
def bucket(s3: Any) -> str:
    """The URL of a bucket of the test's own."""
    url: str = s3.bucket(f"test-{uuid.uuid4().hex[:12]}")
    return url


@pytest.fixture
def terminal() -> Callable[..., tuple[int, str]]:
    """``terminal(action, columns, **environment)``: (exit code of ``action()``, all that it writes) in a forked process
    on a pseudo-terminal of its own. It must not compute with torch, whose threads a fork does not have."""

    def run(action: Callable[[], int], columns: int = 80, **environment: str) -> tuple[int, str]:
        child, master = pty.fork()
        if child == 0:
            code = 99
            try:
                for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
                    os.environ.pop(name, None)
                os.environ.update({"TERM": "xterm-256color"} | environment)
                sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
                os.read(0, 1)  # until the terminal has its width
                code = action()
            except SystemExit as stop:
                code = int(stop.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        attributes = termios.tcgetattr(master)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(master, termios.TCSANOW, attributes)
        os.write(master, b"\n")
        said = b""
        with contextlib.suppress(OSError):  # raised when the other end is closed
            while block := os.read(master, 65536):
                said += block
        os.close(master)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode().replace("\r\n", "\n")

    return run
