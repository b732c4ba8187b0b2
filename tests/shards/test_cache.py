"""The node's cache: fetched once, checked, bounded, and nothing in it half there, by several processes at once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import numpy as np
import pytest

from ecgray.errors import EcgrayError
from ecgray.shards import cache
from ecgray.shards.cache import Reader, RemoteFile, fetch_all
from ecgray.shards.storage import join, upload, write_bytes

MB = 1_000_000


def put(bucket: str, number: int, size: int = MB) -> RemoteFile:
    content = np.random.default_rng(number).bytes(size)
    url = join(bucket, f"file-{number}")
    write_bytes(url, content)
    return RemoteFile(url, size, hashlib.sha256(content).hexdigest())


def held(tmp_path: Path) -> set[str]:
    return {file.name for file in (tmp_path / "cache" / "files").iterdir()}


def counted(tmp_path: Path) -> int:
    return int((tmp_path / "cache" / "held").read_text().split()[0])


def bytes_held(tmp_path: Path) -> int:
    return sum(file.stat().st_size for file in (tmp_path / "cache" / "files").iterdir())


@pytest.fixture
def three_mb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECGRAY_CACHE_GB", "0.0031")


def test_what_was_used_longest_ago_goes(bucket: str, three_mb: None, tmp_path: Path) -> None:
    files = [put(bucket, number) for number in range(5)]
    for age, file in enumerate(files[:3]):
        file.open().close()
        past = time.time() - 100 + age
        os.utime(tmp_path / "cache" / "files" / file.sha256, (past, past))
    files[0].open().close()  # used again: the second is now the oldest
    files[3].open().close()
    assert held(tmp_path) == {files[i].sha256 for i in (0, 2, 3)}
    with files[1].open() as stream:
        assert hashlib.sha256(stream.read()).hexdigest() == files[1].sha256
    assert held(tmp_path) == {files[i].sha256 for i in (0, 3, 1)}


def test_a_file_that_is_read_stays(
    bucket: str, three_mb: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecgray.shards.cache._WAIT_S", 0.2)
    files = [put(bucket, number) for number in range(5)]
    streams = [file.open() for file in files[:2]]
    for file in files[2:]:
        file.open().close()
    assert {file.sha256 for file in files[:2]} <= held(tmp_path)
    streams.append(files[2].open())
    with pytest.raises(
        EcgrayError, match=r"The cache must hold all shards .* got no room for .*ECGRAY_CACHE_GB=0.0031"
    ):
        files[3].open()
    for stream in streams:
        stream.close()
    files[3].open().close()


def test_a_kept_map_may_be_evicted_and_is_whole(bucket: str, three_mb: None, tmp_path: Path) -> None:
    files = [put(bucket, number) for number in range(5)]
    stream = files[0].open()
    mapped = np.memmap(stream, np.uint8, "r")
    reader = Reader(stream)
    assert reader.take()
    for file in files[1:]:
        file.open().close()
    assert files[0].sha256 in held(tmp_path) and not reader.gone
    reader.give()
    for file in files[1:]:
        file.open().close()
    assert files[0].sha256 not in held(tmp_path) and reader.gone and not reader.take()
    assert hashlib.sha256(mapped).hexdigest() == files[0].sha256


@pytest.fixture
def small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RemoteFile]:
    """Files of 1 kB each, for a cache of 100 of them, without a server."""
    monkeypatch.setenv("ECGRAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ECGRAY_CACHE_GB", "0.0001")
    content = {f"s3://bucket/{number}": number.to_bytes(4, "big") * 250 for number in range(160)}
    monkeypatch.setattr("ecgray.shards.cache.download", lambda url, file: file.write_bytes(content[url]))
    return [RemoteFile(url, len(bytes_), hashlib.sha256(bytes_).hexdigest()) for url, bytes_ in content.items()]


def test_the_folder_is_looked_at_rarely(
    small_files: list[RemoteFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: looks.append(folder) or scandir(folder))
    for file in small_files[:100]:
        file.open().close()
    assert len(looks) == 1  # a cache that nobody has counted yet
    for file in small_files[100:]:
        file.open().close()
        assert 95_000 <= bytes_held(tmp_path) <= counted(tmp_path) <= 100_000
    assert 1 < len(looks) <= 1 + 60 / 5


@pytest.mark.parametrize(
    "number", [None, b"", b"0", b"0 ", b"0 another boot", b"\xff\x00", "torn"], ids=lambda number: repr(number)
)
def test_a_number_that_cannot_be_relied_on(
    number: bytes | str | None, small_files: list[RemoteFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECGRAY_CACHE_GB", "0.000003")
    for file in small_files[:3]:
        file.open().close()
    text = tmp_path / "cache" / "held"
    if number is None:
        text.unlink()
    else:
        text.write_bytes(text.read_bytes()[:-5] if isinstance(number, str) else number)
    small_files[3].open().close()
    assert len(held(tmp_path)) == 3 and small_files[3].sha256 in held(tmp_path)
    assert counted(tmp_path) == 3000


def test_where_the_kernel_does_not_name_the_boot(
    small_files: list[RemoteFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecgray.shards.cache._BOOT", tmp_path / "none")
    monkeypatch.setenv("ECGRAY_CACHE_GB", "0.000003")
    for file in small_files[:4]:
        file.open().close()
        (tmp_path / "cache" / "held").write_text("0 ")
    assert bytes_held(tmp_path) == 3000


def test_a_number_that_is_too_large(small_files: list[RemoteFile], tmp_path: Path) -> None:
    """Files were removed by hand: nothing more has to go."""
    for file in small_files[:100]:
        file.open().close()
    for file in small_files[10:30]:
        (tmp_path / "cache" / "files" / file.sha256).unlink()
    assert counted(tmp_path) == 100_000
    small_files[100].open().close()
    assert held(tmp_path) == {file.sha256 for file in small_files[:10] + small_files[30:101]}
    assert counted(tmp_path) == bytes_held(tmp_path) == 81_000


def test_a_file_gets_its_name_under_the_lock(
    small_files: list[RemoteFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks at the folder meets each file under one of its names."""
    file, met = small_files[0], []

    def look(lock: BinaryIO) -> None:
        with lock:
            time.sleep(0.3)
            met.extend(held(tmp_path))

    def locked_download(url: str, partial: Path) -> None:
        download(url, partial)
        lock = (tmp_path / "cache" / "lock").open("ab")
        fcntl.flock(lock, fcntl.LOCK_EX)
        Thread(target=look, args=[lock]).start()

    download = cache.download
    monkeypatch.setattr(cache, "download", locked_download)
    file.open().close()
    assert met == [f"{file.sha256}.{file.bytes}.partial"]


FILL = """
import hashlib, os, random, signal, sys
from ecgray.shards import cache
draw, dies, fetched = random.Random(int(sys.argv[1])), int(sys.argv[2]), 0
content = {f"s3://bucket/{number}": bytes([number]) * (500 + 40 * number) for number in range(60)}
def download(url, file):
    global fetched
    fetched += 1
    file.write_bytes(content[url])
    if fetched == dies:
        os.kill(os.getpid(), signal.SIGKILL)
cache.download = download
for url in draw.choices(list(content), k=100):
    data = content[url]
    with cache.RemoteFile(url, len(data), hashlib.sha256(data).hexdigest()).open() as stream:
        assert stream.read() == data
"""


def test_processes_that_fill_a_cache_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never holds more than the bound, nor more than is counted; one of them is killed in a fetch."""
    monkeypatch.setenv("ECGRAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ECGRAY_CACHE_GB", "0.00004")
    (tmp_path / "cache" / "files").mkdir(parents=True)
    dies = [0, 0, 20]  # after that many fetches; 0: not at all
    processes = [
        subprocess.Popen([sys.executable, "-c", FILL, str(seed), str(fetches)]) for seed, fetches in enumerate(dies)
    ]
    most = 0
    while any(process.poll() is None for process in processes):
        with (tmp_path / "cache" / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            size = 0
            for name in held(tmp_path):
                with contextlib.suppress(FileNotFoundError):  # its process found that another has fetched it
                    size += (tmp_path / "cache" / "files" / name).stat().st_size
            assert size <= 40_000
            assert not size or size <= counted(tmp_path)
            most = max(most, size)
        time.sleep(0.001)
    assert [process.returncode for process in processes] == [0, 0, -signal.SIGKILL]
    assert most > 30_000


FETCH = """
import sys, time
from ecgray.shards import cache
download = cache.download
def logged(url, file):
    with open(sys.argv[1], "a") as log:
        log.write("fetched\\n")
    download(url, file)
    time.sleep(float(sys.argv[5]))
cache.download = logged
stream = cache.RemoteFile(sys.argv[2], int(sys.argv[3]), sys.argv[4]).open()
print(len(stream.read()))
"""


def fetching(log: Path, file: RemoteFile, pause: float) -> subprocess.Popen[bytes]:
    words = [str(log), file.url, str(file.bytes), file.sha256, str(pause)]
    return subprocess.Popen([sys.executable, "-c", FETCH, *words], stdout=subprocess.PIPE)


def test_processes_fetch_a_file_once(bucket: str, tmp_path: Path) -> None:
    file, log = put(bucket, 0), tmp_path / "log"
    processes = [fetching(log, file, 1.0) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == [b"1000000\n"] * 3
    assert log.read_text().count("fetched") == 1
    assert held(tmp_path) == {file.sha256}


def test_a_killed_fetch_is_done_again(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, log = put(bucket, 0), tmp_path / "log"
    process = fetching(log, file, 100.0)
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert held(tmp_path) == {f"{file.sha256}.{file.bytes}.partial"}
    with file.open() as stream:
        assert len(stream.read()) == MB
    assert counted(tmp_path) == 2 * MB  # once more than there is
    other = put(bucket, 1)
    (tmp_path / "cache" / "files" / f"{'0' * 64}.5.partial").write_bytes(b"dead")
    monkeypatch.setenv("ECGRAY_CACHE_GB", "0.0021")
    other.open().close()
    assert held(tmp_path) == {file.sha256, other.sha256}
    assert counted(tmp_path) == 2 * MB


def test_changed_bytes_and_missing_files(bucket: str, tmp_path: Path) -> None:
    file = put(bucket, 0)
    write_bytes(file.url, b"x" * MB)
    with pytest.raises(EcgrayError, match=f"'{file.url}' must have the SHA-256 of the manifest, got changed bytes"):
        file.open()
    write_bytes(file.url, b"x")
    with pytest.raises(EcgrayError, match=f"'{file.url}' must be of 1000000 bytes, got 1"):
        file.open()
    gone = RemoteFile(join(bucket, "gone"), 5, "0" * 64)
    with pytest.raises(EcgrayError, match=f"'{gone.url}' must exist, got nothing"):
        fetch_all([gone, gone])
    assert held(tmp_path) == set()


def test_a_cache_that_cannot_be_written(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(bucket, 0)
    (tmp_path / "no-folder").write_text("a file")
    monkeypatch.setenv("ECGRAY_CACHE", str(tmp_path / "no-folder"))
    with pytest.raises(EcgrayError, match=r"The cache in .*no-folder must take .*name another in ECGRAY_CACHE"):
        file.open()
    monkeypatch.setenv("ECGRAY_CACHE_GB", "-1")
    monkeypatch.setenv("ECGRAY_CACHE", str(tmp_path / "cache"))
    with pytest.raises(EcgrayError, match="ECGRAY_CACHE_GB must be a number of gigabytes above 0, got '-1'"):
        file.open()


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/usr/bin/unshare").exists(), reason="mounting takes root")
def test_a_full_disk(bucket: str, tmp_path: Path) -> None:
    file = put(bucket, 0, 3 * MB)
    code = (
        "from ecgray.errors import EcgrayError; from ecgray.shards.cache import RemoteFile\n"
        f"try: RemoteFile('{file.url}', {file.bytes}, '{file.sha256}').open()\n"
        "except EcgrayError as error: print(error)\n"
        "import os; print(os.listdir(os.environ['ECGRAY_CACHE'] + '/files'))"
    )
    mount = tmp_path / "small"
    mount.mkdir()
    script = 'mount -t tmpfs -o size=2m none "$0" && exec "$1" -c "$2"'
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(mount), sys.executable, code],
        env=os.environ | {"ECGRAY_CACHE": str(mount)},
        capture_output=True,
        text=True,
    )
    assert "No space left on device; free some space, or lower ECGRAY_CACHE_GB." in run.stdout, run.stderr
    assert run.stdout.endswith("[]\n")


def test_the_lock_of_a_reader_is_the_kernels(bucket: str, tmp_path: Path) -> None:
    """A process that dies while it reads holds nothing back."""
    file = put(bucket, 0)
    code = (
        "from ecgray.shards.cache import RemoteFile\n"
        f"stream = RemoteFile('{file.url}', {MB}, '{file.sha256}').open()\n"
        "print(1, flush=True)\ninput()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"1\n"
    with (tmp_path / "cache" / "files" / file.sha256).open("rb") as stream:
        with pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.kill()
        process.communicate()
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_file_of_many_parts(bucket: str, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(60 * MB)
    (tmp_path / "large").write_bytes(content)
    upload(tmp_path / "large", join(bucket, "large"))
    file = RemoteFile(join(bucket, "large"), len(content), hashlib.sha256(content).hexdigest())
    with file.open() as stream:
        assert stream.read() == content
