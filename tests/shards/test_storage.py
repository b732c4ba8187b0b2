"""Bytes at URLs of a real S3 server: what is there, what is refused, and what happens while the server is away."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecgray.errors import EcgrayError
from ecgray.shards.storage import (
    StorageLost,
    create_bytes,
    download,
    is_remote,
    join,
    list_files,
    list_versions,
    read_bytes,
    remove,
    resolve,
    size_of,
    upload,
    write_bytes,
)


@pytest.fixture
def gs_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an emulator of Google's storage, a real HTTP server on loopback."""
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["start", "-q", "-M", "-H", "127.0.0.1", "--port", str(port), "--default-bucket", "ecgray"]
    server = subprocess.Popen(
        [sys.executable, "-m", "gcp_storage_emulator", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield "gs://ecgray"
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("place", ["s3", "gs", "local"])
def test_files(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root = {
        "s3": lambda: request.getfixturevalue("bucket"),
        "gs": lambda: request.getfixturevalue("gs_bucket"),
        "local": lambda: str(tmp_path / "files"),
    }[place]()
    write_bytes(join(root, "a", "one"), b"1")
    write_bytes(join(root, "a", "deep", "two"), b"22")
    assert list_files(join(root, "a")) == {"one": 1, "deep/two": 2}
    assert list_files(join(root, "nowhere")) == {}
    assert read_bytes(join(root, "a", "deep", "two")) == b"22"
    assert size_of(join(root, "a", "one")) == 1 and size_of(join(root, "b")) is None
    before = list_versions(join(root, "a"))
    write_bytes(join(root, "a", "one"), b"2")
    after = list_versions(join(root, "a"))
    assert before["one"] != after["one"] and before["deep/two"] == after["deep/two"]
    upload(Path(__file__), join(root, "a", "file"))
    download(join(root, "a", "file"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == Path(__file__).read_bytes()
    remove(join(root, "a", "deep"))
    remove(join(root, "a", "deep"))
    assert set(list_files(join(root, "a"))) == {"one", "file"}
    with pytest.raises(FileNotFoundError):
        read_bytes(join(root, "a", "deep", "two"))


def test_one_of_several_creates(bucket: str) -> None:
    url, made = join(bucket, "lock"), []
    contents = [f"process {i}".encode() for i in range(8)]
    threads = [threading.Thread(target=lambda c=c: made.append(create_bytes(url, c) and c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [c for c in made if c] == [read_bytes(url)]


def test_places() -> None:
    assert is_remote("s3://bucket/x") and is_remote(Path("gs://bucket/x")) and not is_remote("/tmp/s3")
    assert resolve(Path("s3://bucket/x/")) == resolve("s3://bucket/x") == "s3://bucket/x"
    with pytest.raises(EcgrayError, match="begin with s3:// or gs://, got 'hdfs://x/y'"):
        is_remote("hdfs://x/y")
    with pytest.raises(EcgrayError, match="name a bucket and a folder"):
        resolve("s3://")


def test_a_bucket_that_is_not_there(s3: Any) -> None:
    for call in (read_bytes, list_files, lambda url: write_bytes(url, b"")):
        with pytest.raises(EcgrayError, match="The bucket 'no-such-bucket' must exist, got none of that name at http"):
            call("s3://no-such-bucket/x")


def in_a_new_process(code: str, **environment: str) -> str:
    """What Python says to an EcgrayError of ``code``, with other variables."""
    text = f"from ecgray.errors import EcgrayError\ntry:\n    {code}\nexcept EcgrayError as error:\n    print(error)"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_") or key == "AWS_ENDPOINT_URL"}
    run = subprocess.run(
        [sys.executable, "-c", text], env=kept | environment, capture_output=True, text=True, timeout=120
    )
    return run.stdout.strip()


def test_no_credentials(bucket: str, tmp_path: Path) -> None:
    said = in_a_new_process(
        f"from ecgray.shards.storage import read_bytes; read_bytes('{bucket}/x')",
        AWS_EC2_METADATA_DISABLED="true",
        HOME=str(tmp_path),
    )
    assert "must be opened with credentials, got none" in said and "AWS_ACCESS_KEY_ID" in said
    assert said.count("\n") == 0


def test_wrong_credentials(bucket: str, s3: Any) -> None:
    with s3.demanding_credentials():
        said = in_a_new_process(
            f"from ecgray.shards.storage import read_bytes; read_bytes('{bucket}/x')",
            AWS_ACCESS_KEY_ID="stranger",
            AWS_SECRET_ACCESS_KEY="none",
        )
    assert f"The credentials must be allowed to read '{bucket}/x', got a refusal" in said, said


def test_s3fs_is_not_installed() -> None:
    said = in_a_new_process(
        "import sys; sys.modules['s3fs'] = None; from ecgray.shards.storage import *; read_bytes('s3://b/x')"
    )
    assert "s3:// must be read with the package s3fs, got none" in said and "pip install 'ecgray[s3]'" in said


def test_a_storage_that_comes_back(s3: Any, bucket: str) -> None:
    s3.shut()
    opener = threading.Timer(2.0, s3.open)
    opener.start()
    began = time.monotonic()
    write_bytes(join(bucket, "x"), b"here")
    assert time.monotonic() - began >= 1.5
    opener.join()
    assert read_bytes(join(bucket, "x")) == b"here"


def test_a_storage_that_stays_away(s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECGRAY_STORAGE_PATIENCE_S", "1")
    s3.shut()
    with pytest.raises(StorageLost, match=r"must be reachable, but it could not be read for 1 s \(.*mend the storage"):
        read_bytes(join(bucket, "x"))
    monkeypatch.setenv("ECGRAY_STORAGE_PATIENCE_S", "soon")
    with pytest.raises(EcgrayError, match="must be a number of seconds, got 'soon'"):
        read_bytes(join(bucket, "x"))
