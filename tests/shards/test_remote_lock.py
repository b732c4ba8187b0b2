"""One writer at a time in a folder on object storage."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from ecgray.errors import EcgrayError
from ecgray.shards import remote_lock, working
from ecgray.shards.remote_lock import remotely_locked
from ecgray.shards.storage import join, list_files, write_bytes


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lock, "BEAT_S", 0.2)
    monkeypatch.setattr(remote_lock, "STALE_S", 2.0)


def test_a_living_holder_keeps_it(bucket: str, short: None) -> None:
    with (
        remotely_locked(bucket + "/run"),
        pytest.raises(EcgrayError, match=f"by one process at a time, got process {os.getpid()} on"),
        remotely_locked(bucket + "/run"),
    ):
        pass
    with remotely_locked(bucket + "/run") as lock:
        lock.check()
    assert list(list_files(bucket + "/run")) == ["lock/000002"]


def test_a_dead_process_of_this_machine_holds_nothing(bucket: str) -> None:
    code = (
        f"from ecgray.shards.remote_lock import _acquire; lock = _acquire('{bucket}/run'); "
        "print(1, flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"1\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    began = time.monotonic()
    with remotely_locked(bucket + "/run"):
        assert time.monotonic() - began < remote_lock.STALE_S


def test_a_silent_holder_elsewhere_loses_it(bucket: str, short: None) -> None:
    write_bytes(join(bucket, "run", "lock", "000006"), b'{"host": "elsewhere", "kernel": "other", "pid": 1}')
    with remotely_locked(bucket + "/run"):
        assert list(list_files(bucket + "/run")) == ["lock/000007"]


def test_a_working_copy_of_the_next_holder_stays(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one of this machine gets the lock in the moment in which it is free."""
    url, begun = bucket + "/run", contextlib.ExitStack()

    @contextlib.contextmanager
    def followed(folder: str) -> Iterator[remote_lock.RemoteLock]:
        with remotely_locked(folder) as lock:
            yield lock
        monkeypatch.setattr(working, "remotely_locked", remotely_locked)
        begun.enter_context(working.working_copy(url, resume=True, wanted=lambda name: True))

    monkeypatch.setattr(working, "remotely_locked", followed)
    with begun:
        with working.working_copy(url, resume=True, wanted=lambda name: True) as (folder, _):
            (folder / "ours").touch()
        assert folder.is_dir() and not (folder / "ours").exists()
    assert not folder.exists()


def test_who_writes_for_a_holder_that_lost_it_is_refused(bucket: str) -> None:
    with remotely_locked(bucket + "/run") as lock:
        remote_lock.refuse_lost(bucket + "/run", lock.number)
        write_bytes(join(bucket, "run", "lock", f"{lock.number + 1:06d}"), b'{"host": "elsewhere", "pid": 1}')
        with pytest.raises(EcgrayError, match="another one that took it over"):
            remote_lock.refuse_lost(bucket + "/run", lock.number)


def test_one_of_several_takes_over(bucket: str, short: None) -> None:
    write_bytes(join(bucket, "run", "lock", "000001"), b'{"free": true}')
    inside, refused = [], []

    def enter() -> None:
        try:
            with remotely_locked(bucket + "/run"):
                inside.append(1)
                time.sleep(3)
        except EcgrayError as error:
            refused.append(error)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 1 and len(refused) == 3


def test_a_holder_that_was_passed_over_knows(bucket: str, short: None) -> None:
    with remotely_locked(bucket + "/run") as lock:
        write_bytes(join(bucket, "run", "lock", "000002"), b'{"host": "elsewhere", "pid": 1}')
        deadline = time.monotonic() + 30
        with pytest.raises(EcgrayError, match="took it over while this one was silent"):
            while time.monotonic() < deadline:
                lock.check()
                time.sleep(0.05)
    assert list(list_files(bucket + "/run")) == ["lock/000001", "lock/000002"]
