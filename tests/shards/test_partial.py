"""Files that are whole or absent, and what becomes of those on their way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ecgray.shards import working
from ecgray.shards.manifest import replaced, write_atomically
from ecgray.shards.partial import on_its_way

WRITER = """
import os, signal, sys, time
from pathlib import Path
from ecgray.shards.manifest import write_atomically
def fsync(handle):
    Path(sys.argv[1]).with_name("reached").touch()
    os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2] == "dies" else time.sleep(600)
os.fsync = fsync
write_atomically(Path(sys.argv[1]), b"other")
"""


def writer(file: Path, how: str) -> subprocess.Popen[bytes]:
    """A process that writes ``file`` and has come to its flush, where it "dies" or "waits"."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(file), how])
    deadline = time.monotonic() + 120
    while not file.with_name("reached").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    file.with_name("reached").unlink()
    return process


def partials(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.partial-*"))


def test_what_a_dead_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    write_atomically(file, b"before")
    assert writer(file, "dies").wait(60) == -signal.SIGKILL
    (dead,) = partials(tmp_path)
    living = writer(file, "waits")
    try:
        (alive,) = partials(tmp_path)
        assert alive != dead and file.read_bytes() == b"before"
        write_atomically(file, b"after")
        assert partials(tmp_path) == [alive] and file.read_bytes() == b"after"
    finally:
        living.kill()
        living.wait(60)
    write_atomically(tmp_path / "other.json", b"")
    assert partials(tmp_path) == [alive]  # it is that of another file
    write_atomically(file, b"again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.json", "scores.json"]


def test_a_process_number_that_lives_again_tells_nothing(tmp_path: Path) -> None:
    """As in a container, where every process has the number of the one before; and as earlier versions named them."""
    file = tmp_path / "[a]*.json"
    for name in ("[a]*.json", "aa.json"):
        (tmp_path / f"{name}.partial-{os.getpid()}").write_bytes(b"torn")
    write_atomically(file, b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["[a]*.json", f"aa.json.partial-{os.getpid()}"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    write_atomically(tmp_path / "file", b"before")
    with pytest.raises(error), replaced(tmp_path / "file") as stream:
        stream.write(b"half")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


def test_many_at_once_each_write_a_whole_file(tmp_path: Path) -> None:
    """None takes another's for dead, not even between its making and its lock."""
    file = tmp_path / "file"
    contents = [bytes([number]) * 1000 for number in range(64)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda content: write_atomically(file, content), contents))
    assert file.read_bytes() in contents and partials(tmp_path) == []


def test_one_that_was_taken_for_dead_before_its_lock_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgray.shards import partial

    real, taken = partial.fcntl.flock, []

    def flock(handle: object, how: int) -> None:
        if not taken:
            taken.extend(partials(tmp_path))
            taken[0].unlink()
        real(handle, how)  # type: ignore[arg-type]

    monkeypatch.setattr(partial.fcntl, "flock", flock)
    with on_its_way(tmp_path / "file") as (path, _):
        assert path.exists() and path != taken[0]


def test_what_goes_to_a_url_is_made_in_an_empty_folder_and_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECGRAY_CACHE", str(tmp_path))
    sent: list[str] = []
    monkeypatch.setattr(working, "push", lambda folder, url, names: sent.extend(names))
    with working.written("s3://bucket/report", "z", "a") as folder:
        dead = folder
    dead.mkdir()
    (dead / "of-a-killed-process").touch()
    with working.written("s3://bucket/report", "z", "a") as folder:
        for name in ("a", "b", "z"):
            (folder / name).touch()
    assert folder == dead and sent == ["b", "z", "a"] and not folder.exists()
