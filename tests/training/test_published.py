"""Runs at URLs of a real S3 server: the bits of a run in a folder, whatever dies or goes away meanwhile.

One fresh process imports everything and forks a child per start; each child has a node cache of its own, as another
machine would.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ecgray
from ecgray.config import to_dict
from ecgray.errors import EcgrayError
from ecgray.shards.storage import join, list_files, read_bytes, size_of, upload, write_bytes
from ecgray.training.checkpoint import LoopState, save_rank, write_checkpoint, write_loop_state
from ecgray.training.config import PretrainConfig
from ecgray.training.distributed import Distributed
from ecgray.training.loaded import model_folder
from ecgray.training.loop import Training
from ecgray.training.pretraining import pretrain
from ecgray.training.published import fetch_checkpoint
from ecgray.training.stopping import RunStopped

MakeConfig = Callable[..., PretrainConfig]


@pytest.fixture
def at_url(make_config: MakeConfig, small_archive: Path, bucket: str) -> PretrainConfig:
    """The small config, its shard set at a URL."""
    url = join(bucket, "shards", "small")
    for file in small_archive.rglob("*.*"):
        upload(file, join(url, str(file.relative_to(small_archive))))
    config = make_config()
    return replace(config, data=replace(config.data, shards=(url,)))


@pytest.fixture
def whole(make_config: MakeConfig, tmp_path: Path) -> Path:
    """The same run in folders, in which nobody died."""
    pretrain(make_config(), tmp_path / "whole", show_progress=False)
    return tmp_path / "whole"


def assert_equal_runs(url: str, folder: Path, step: int = 12, ranks: int = 1) -> None:
    for name in ("model", "optimiser", *(f"rank-{rank}" for rank in range(ranks))):
        file = f"checkpoints/step-{step:06d}/{name}.safetensors"
        assert read_bytes(join(url, file)) == (folder / file).read_bytes(), file
    for name in ("complete", "loop.json", "model.json"):
        file = f"checkpoints/step-{step:06d}/{name}"
        assert read_bytes(join(url, file)) == (folder / file).read_bytes(), file
    assert read_bytes(join(url, "best")).decode() == (folder / "best").resolve().name
    assert without_times(read_bytes(join(url, "metrics.jsonl"))) == without_times(
        (folder / "metrics.jsonl").read_bytes()
    )
    steps = {name.split("/")[1] for name in list_files(url) if name.startswith("checkpoints/")}
    assert steps == {entry.name for entry in (folder / "checkpoints").iterdir()}


def without_times(metrics: bytes) -> list[dict[str, Any]]:
    timed = ("frames_per_s", "waiting_for_data")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in metrics.splitlines()]


STARTS = """
import json, os, signal, sys
from pathlib import Path
import torch, torch.distributed as dist
import torch._dynamo  # optimisers import it: once, before the forks
import s3fs
import ecgray.models, ecgray.tasks
from ecgray.config import from_dict
from ecgray.sampling.plan import make_plan
from ecgray.shards.archive import open_archive
from ecgray.shards.working import working_folder
from ecgray.training import published
from ecgray.training.config import PretrainConfig
from ecgray.training.distributed import Distributed
from ecgray.training.loop import Training
from ecgray.training.pretraining import pretrain
from ecgray.training.run import RunFolder
from ecgray.training.stopping import StopRequest

def die_at(upload_number):
    plain, calls = published.upload, []
    def counted(file, url):
        calls.append(1)
        if len(calls) == upload_number:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(file, url)
    published.upload = counted

def alone(config, url, place):
    die_at(place)
    pretrain(config, url, resume=True, show_progress=False)

def one_of_two(config, url, place, rank, meeting):
    die_at(place)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    archive = open_archive(config.data.shards)
    plan = make_plan(archive, config.sampling, config.task, config.training.batch_size)
    run = RunFolder(working_folder(url), url)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    Training(config, run, archive, plan, Distributed(rank, 2), backend="local", stop=StopRequest()).go()
    dist.destroy_process_group()

def fork(node, work, *arguments):
    child = os.fork()
    if child:
        return child
    os.environ["ECGRAY_CACHE"] = f"{sys.argv[3]}/node-{node}"
    status = 1
    try:
        work(*arguments)
        status = 0
    finally:
        os._exit(status)

config, url = from_dict(PretrainConfig, json.loads(sys.argv[1])), sys.argv[2]
for start, (size, *places) in enumerate(json.loads(sys.argv[4])):
    if size == 1:
        children = [fork(start, alone, config, url, places[0])]
    else:
        meeting = f"{sys.argv[3]}/meeting-{start}"
        children = [fork(f"{start}-{rank}", one_of_two, config, url, places[rank], rank, meeting) for rank in (0, 1)]
    ends = []
    for child in children:
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        if ends[-1]:
            for other in children[len(ends):]:
                os.kill(other, signal.SIGKILL)  # which a cluster does to those who wait
    print(json.dumps(ends), flush=True)
"""


def starts(config: PretrainConfig, url: str, tmp_path: Path, *each: tuple[int, ...]) -> list[list[int]]:
    """Exit codes of the ranks of every start (ranks, number of the upload at which each dies; 0: at none)."""
    tmp_path.mkdir(exist_ok=True)
    child = subprocess.run(
        [sys.executable, "-c", STARTS, json.dumps(to_dict(config)), url, str(tmp_path), json.dumps(each)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert child.returncode == 0, child.stderr
    return [json.loads(line) for line in child.stdout.splitlines()]


def test_killed_while_publishing_and_resumed_elsewhere(
    at_url: PretrainConfig, bucket: str, whole: Path, tmp_path: Path
) -> None:
    """A checkpoint here is five files and a marker: killed within the first, before a marker, within a later one."""
    url = f"{bucket}/runs/killed"
    ends = starts(at_url, url, tmp_path, (1, 3), (1, 12), (1, 9), (1, 0))
    assert ends == [[-9], [-9], [-9], [0]]
    assert_equal_runs(url, whole)


def test_each_rank_publishes_from_its_own_node(at_url: PretrainConfig, bucket: str, tmp_path: Path) -> None:
    at_url = replace(at_url, training=replace(at_url.training, steps=4, checkpoint_every=2, validate_every=100))
    never, killed = f"{bucket}/runs/never", f"{bucket}/runs/killed"
    assert starts(at_url, never, tmp_path / "a", (2, 0, 0)) == [[0, 0]]
    first, second = starts(at_url, killed, tmp_path / "b", (2, 0, 2), (2, 0, 0))  # its second file: of step 4
    assert -9 in first and second == [0, 0]
    names = [name for name in list_files(join(never, "checkpoints"))]
    assert {f"step-000004/rank-{rank}.safetensors" for rank in (0, 1)} <= set(names)
    assert names == list(list_files(join(killed, "checkpoints")))
    for name in names:
        assert read_bytes(join(never, "checkpoints", name)) == read_bytes(join(killed, "checkpoints", name)), name


def test_a_checkpoint_of_this_machine_alone_is_not_taken_for_the_published_one(bucket: str, tmp_path: Path) -> None:
    """Left by a worker that died before its marker was published, or by another run at this URL."""

    def write(root: Path, seed: int, ranks: int) -> Path:
        torch.manual_seed(seed)
        network = torch.nn.BatchNorm1d(4)

        def own(folder: Path) -> None:
            for rank in range(ranks):
                save_rank(folder, rank, network)

        return write_checkpoint(
            root,
            6,
            Distributed(),
            shared=lambda folder: write_loop_state(folder, LoopState(step=6)),
            own=own,
        )

    theirs, ours = write(tmp_path / "elsewhere", 1, ranks=1), write(tmp_path / "here", 2, ranks=2)
    files = sorted(file.name for file in theirs.iterdir())
    for name in files:
        upload(theirs / name, join(bucket, "run", "checkpoints", theirs.name, name))
    for _ in range(2):
        assert fetch_checkpoint(join(bucket, "run"), 6, tmp_path / "here") == ours
        assert sorted(file.name for file in ours.glob("[!.]*")) == files
        for name in files:
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


@pytest.mark.parametrize("at", ["folder", "url"])
def test_torn_checkpoints_do_not_push_out_those_after_a_resume(
    at: str, make_config: MakeConfig, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(width=2, validate_every=100, keep_checkpoints=3)
    place = str(tmp_path / "run") if at == "folder" else f"{bucket}/runs/torn"
    pretrain(config, place, show_progress=False)
    for step in (9, 12):
        name = f"checkpoints/step-{step:06d}/optimiser.safetensors"
        Path(place, name).write_bytes(b"torn") if at == "folder" else write_bytes(join(place, name), b"torn")

    def stopping(self: Training, batch: Any) -> Any:
        self._stop.signal_name = "SIGTERM"
        return plain(self, batch)

    plain = Training._step
    config = replace(config, training=replace(config.training, keep_checkpoints=1))
    monkeypatch.setattr("ecgray.training.run.MAY_CHANGE", ("training.keep_checkpoints",))
    monkeypatch.setattr(Training, "_step", stopping)
    with pytest.raises(RunStopped, match="after step 7 of 12"):
        pretrain(config, place, resume=True, show_progress=False)
    names = [str(f.relative_to(place)) for f in Path(place).rglob("*")] if at == "folder" else list_files(place)
    whole = {name.split("/")[1] for name in names if name.endswith("/complete")}
    assert whole == {"step-000007"}
    monkeypatch.setattr(Training, "_step", plain)
    pretrain(config, place, resume=True, show_progress=False)


@contextmanager
def when_published(url: str, act: Callable[[], None]) -> Iterator[list[float]]:
    """``act`` once the object is there; gives the time at which that was."""
    acted: list[float] = []

    def wait() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not acted:
            if size_of(url) is not None:
                acted.append(time.monotonic())
                act()
            time.sleep(0.01)

    thread = threading.Thread(target=wait)
    thread.start()
    yield acted
    thread.join()


def test_a_storage_that_is_away_for_a_while(at_url: PretrainConfig, bucket: str, s3: Any, whole: Path) -> None:
    url = f"{bucket}/runs/outage"

    def away() -> None:
        s3.shut()
        time.sleep(3)
        s3.open()

    with when_published(f"{url}/checkpoints/step-000003/complete", away) as acted:
        assert pretrain(at_url, url, show_progress=False) == url
        assert acted and time.monotonic() - acted[0] >= 2.5
    assert_equal_runs(url, whole)


def test_a_storage_that_stays_away(
    at_url: PretrainConfig, bucket: str, s3: Any, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/runs/lost"
    monkeypatch.setenv("ECGRAY_STORAGE_PATIENCE_S", "1")
    monkeypatch.setattr(
        "ecgray.shards.remote_lock.STALE_S", 2.0
    )  # this process lives, and holds a lock it could not free
    with (
        when_published(f"{url}/checkpoints/step-000003/complete", s3.shut),
        pytest.raises(EcgrayError) as raised,
    ):
        pretrain(at_url, url, show_progress=False)
    said = str(raised.value)
    assert "must be reachable, but it could not be" in said and "\n" not in said
    good = said.partition("The last good checkpoint is ")[2].partition(";")[0]
    assert good.startswith(f"{url}/checkpoints/step-"), said
    s3.open()
    assert size_of(f"{good}/complete") is not None
    pretrain(at_url, url, resume=True, show_progress=False)
    assert_equal_runs(url, whole)


def test_reading_a_run(at_url: PretrainConfig, bucket: str, whole: Path, s3: Any) -> None:
    url = f"{bucket}/runs/read"
    pretrain(at_url, url, show_progress=False)
    signal = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 1, 256)).astype(np.float32))
    expected = ecgray.load(whole)(signal)
    assert torch.equal(ecgray.load(url)(signal), expected)
    assert model_folder(url).name == (whole / "best").resolve().name
    newest = join(url, "checkpoints", "step-000012")
    assert torch.equal(ecgray.load(newest)(signal), ecgray.load(whole / "checkpoints" / "step-000012")(signal))
    with pytest.raises(EcgrayError, match=f"A run must go into a new folder, got {url}, which holds one; go on with"):
        pretrain(at_url, url, show_progress=False)
    with pytest.raises(EcgrayError, match=f"got {bucket}/runs, which holds other files; give another --out"):
        pretrain(at_url, f"{bucket}/runs", show_progress=False)
    other = replace(at_url, optimiser=replace(at_url.optimiser, learning_rate=1.0))
    with pytest.raises(EcgrayError, match=r"got other values of optimiser.learning_rate"):
        pretrain(other, url, resume=True, show_progress=False)
    with pytest.raises(EcgrayError, match=f"got {bucket}/nothing, where nothing is"):
        ecgray.load(f"{bucket}/nothing")
    best = read_bytes(join(url, "best")).decode()
    write_bytes(join(url, "checkpoints", best, "model.safetensors"), b"torn")
    with pytest.raises(EcgrayError, match="A checkpoint must be whole"):
        ecgray.load(url)
