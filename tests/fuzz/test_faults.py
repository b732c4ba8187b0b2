"""Disks that fill, permissions that go, files that change, two processes in one folder: real processes, real files.

After each: one clear line, the last good state whole, and the end of an untroubled run once the trouble is over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ecgray.config import to_dict
from ecgray.training.checkpoint import fault_of, newest_checkpoint
from ecgray.training.run import RunFolder

CINC2017 = Path(__file__).parents[1] / "data" / "cinc2017"

PROCESS = """
import json, os, sys, time
from pathlib import Path
job = json.loads(sys.argv[1])

def trouble():
    done = Path(job["flag"])
    if done.exists():
        return
    exec(job["trouble"])
    done.touch()

def pause():
    Path(job["flag"]).touch()
    while not Path(job["flag"] + "-go").exists():
        time.sleep(0.02)

def before(owner, name, call):
    plain, calls = getattr(owner, name), []
    def wrapped(*arguments, **named):
        calls.append(1)
        if len(calls) == call:
            trouble()
        return plain(*arguments, **named)
    setattr(owner, name, wrapped)

from ecgray import cli
import ecgray.shards.ingest as ingesting
if job.get("call"):
    if job["at"] == "shard":
        before(ingesting, "write_shard", job["call"])
    else:
        from ecgray.training import loop
        before(loop.Training, "_step", job["call"])
if "config" not in job:
    sys.exit(cli.main(job["words"]))
import ecgray.models, ecgray.tasks
from ecgray.config import from_dict
from ecgray.training.config import PretrainConfig
from ecgray.training.pretraining import pretrain
cli.VERBS["train"] = ("", lambda words: print(pretrain(
    from_dict(PretrainConfig, job["config"]), words[0], resume=True, show_progress=False)))
sys.exit(cli.main(["train", job["out"]]))
"""
Job = dict[str, Any]


def start(job: Job, *prefix: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*prefix, sys.executable, "-c", PROCESS, json.dumps(job)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what it said of an error: lines that begin as those of the command line do."""
    _, said = process.communicate(timeout=300)
    assert "Traceback" not in said, said
    return process.returncode, "\n".join(line for line in said.splitlines() if line.startswith("ecgray: "))


def run(job: Job, *prefix: str) -> tuple[int, str]:
    return finish(start(job, *prefix))


def refused(outcome: tuple[int, str], *words: str) -> str:
    code, said = outcome
    assert code == 2 and said.count("\n") == 0, outcome
    assert all(word in said for word in words), said
    return said


def tree(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """``disk("300k")``: a file system of that size; again with another size: the same one, grown."""
    place = tmp_path / "disk"
    place.mkdir()
    options: list[str] = []

    def mount(size: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={size}"]), "tmpfs", str(place)],
            capture_output=True,
        )
        if done.returncode:
            pytest.skip("a small tmpfs cannot be mounted by this user")
        options[:] = ["remount"]
        return place

    try:
        yield mount
    finally:
        if options:
            subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def bound_by_permissions() -> tuple[str, ...]:
    """The words before a command that make permission bits hold: none are needed but for root."""
    if os.geteuid():
        return ()
    words = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
    if not shutil.which("setpriv") or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("root cannot be bound by permission bits here: setpriv is missing")
    return words


@pytest.fixture(scope="module")
def untroubled(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("untroubled") / "run"
    assert run(training(inputs, out))[0] == 0
    return out


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("untroubled") / "shards"
    assert run(ingesting(out))[0] == 0
    return out


def ingesting(out: Path, root: Path = CINC2017, **job: Any) -> Job:
    return {"words": ["ingest", "cinc2017", str(root), "--out", str(out), "--workers", "0"], **job}


def training(inputs: Path, out: Path, **job: Any) -> Job:
    import material

    config = to_dict(material.pretraining(inputs / "shards"))
    config["training"] |= {"steps": 8}
    return {"config": config, "out": str(out), **job}


def same_end(out: Path, untroubled: Path) -> None:
    ends = [run / "checkpoints" / "step-000008" for run in (out, untroubled)]
    assert fault_of(ends[0]) is None
    for name in ("model.safetensors", "optimiser.safetensors", "rank-0.safetensors", "loop.json"):
        assert (ends[0] / name).read_bytes() == (ends[1] / name).read_bytes(), name
    steps = [[line["step"] for line in RunFolder(run).read_metrics()] for run in (out, untroubled)]
    assert steps[0] == steps[1]


# disk full


@pytest.mark.parametrize("size", ["16k", "152k"])
def test_a_disk_that_fills_during_an_ingest(disk: Callable[[str], Path], ingested: Path, size: str) -> None:
    out = disk(size) / "shards"
    refused(run(ingesting(out)), "No space left on device", str(out))
    assert not (out / "manifest.json").exists()
    disk("4m")
    assert run(ingesting(out)) == (0, "")
    assert tree(out) == tree(ingested)


@pytest.mark.parametrize("size", ["200k", "330k"])
def test_a_disk_that_fills_during_a_checkpoint(
    disk: Callable[[str], Path], inputs: Path, untroubled: Path, size: str
) -> None:
    out = disk(size) / "run"
    said = refused(run(training(inputs, out)), "No space left on device", "--resume")
    newest = newest_checkpoint(out / "checkpoints")
    assert newest is not None and fault_of(newest) is None and str(newest) in said
    disk("8m")
    assert run(training(inputs, out)) == (0, "")
    same_end(out, untroubled)


def test_a_disk_that_takes_no_more_events(disk: Callable[[str], Path], inputs: Path, tmp_path: Path) -> None:
    """The metrics still have room, on another disk."""
    out, metrics = disk("1m") / "run", tmp_path / "metrics.jsonl"
    trouble = f"""
os.unlink(job['out'] + '/metrics.jsonl')
os.symlink({str(metrics)!r}, job['out'] + '/metrics.jsonl')
with open(job['out'] + '/../fill', 'wb', buffering=0) as file:
    try:
        while True: file.write(bytes(4096))
    except OSError:
        pass
"""
    job = training(inputs, out, at="step", call=5, trouble=trouble, flag=str(tmp_path / "flag"))
    job["config"]["training"] |= {"steps": 200, "checkpoint_every": 1000, "validate_every": 1000}
    refused(run(job), "No space left on device", "--resume")
    assert 0 < len(metrics.read_text().splitlines()) < 150
    (out.parent / "fill").unlink()
    assert run(job) == (0, "")
    assert RunFolder(out).read_metrics()[-1]["step"] == 200


def test_a_disk_that_fills_during_a_report(disk: Callable[[str], Path], inputs: Path) -> None:
    out = disk("100k") / "report"
    job = {"words": ["report", str(inputs / "finetuning"), "--out", str(out)]}
    refused(run(job), "No space left on device", str(out))
    assert not (out / "report.html").exists() and not list(out.glob("*.partial*"))
    for picture in out.glob("*.png"):
        assert picture.read_bytes().endswith(b"IEND\xaeB`\x82")  # whole, as the others are absent
    disk("8m")
    assert run(job) == (0, "")
    assert (out / "report.html").is_file()


def test_a_disk_that_fills_during_finetuning(disk: Callable[[str], Path], inputs: Path) -> None:
    out = disk("60k") / "run"
    words = ["finetune", "weimann2021_table1_none", "--data", str(inputs / "labelled"), "--out", str(out)]
    words += ["--seeds", "1", "--protocol.epochs", "2", "--model.width", "2", "--data.seconds", "4", "--data.fs", "100"]
    words += ["--data.train-fraction", "0.5", "--protocol.val-fraction", "0.25", "--protocol.test-fraction", "0.25"]
    refused(run({"words": words}), "No space left on device", "--resume")
    assert not list(out.glob("seeds/*/complete")) and not (out / "scores.json").exists()
    disk("8m")
    assert run({"words": [*words, "--resume"]}) == (0, "")
    assert (out / "scores.json").is_file()


# permission lost


def test_permission_lost_during_an_ingest(
    tmp_path: Path, ingested: Path, bound_by_permissions: tuple[str, ...]
) -> None:
    out = tmp_path / "shards"
    job = ingesting(out, at="shard", call=1, trouble="os.chmod(job['words'][4], 0o555)", flag=str(tmp_path / "flag"))
    refused(run(job, *bound_by_permissions), "Permission denied")
    out.chmod(0o755)
    assert run(job, *bound_by_permissions) == (0, "")
    assert tree(out) == tree(ingested)


def test_a_record_without_permission_is_refused_alone(tmp_path: Path, bound_by_permissions: tuple[str, ...]) -> None:
    root = Path(shutil.copytree(CINC2017, tmp_path / "root"))
    (root / "training2017" / "A00405.mat").chmod(0)
    assert run(ingesting(tmp_path / "shards", root), *bound_by_permissions) == (0, "")
    assert (tmp_path / "shards" / "refused.csv").read_text().splitlines()[1:] == [
        "A00405,the file cannot be read: Permission denied"
    ]


@pytest.mark.parametrize("place", ["checkpoints", ""])
def test_permission_lost_during_a_run(
    tmp_path: Path, inputs: Path, untroubled: Path, bound_by_permissions: tuple[str, ...], place: str
) -> None:
    out = tmp_path / "run"
    trouble = f"os.chmod(os.path.join(job['out'], '{place}'), 0o555)"
    job = training(inputs, out, at="step", call=4, trouble=trouble, flag=str(tmp_path / "flag"))
    refused(run(job, *bound_by_permissions), "Permission denied", "--resume")
    (out / place).chmod(0o755)
    newest = newest_checkpoint(out / "checkpoints")
    assert newest is not None
    assert run(job, *bound_by_permissions) == (0, "")
    same_end(out, untroubled)


# shards that change while a run reads them


@pytest.fixture
def own_shards(inputs: Path, tmp_path: Path) -> Iterator[Path]:
    """The run's shards; put back as they were."""
    kept = shutil.copytree(inputs / "shards", tmp_path / "kept")
    yield inputs / "shards"
    restore(kept, inputs / "shards")


def restore(kept: Path, shards: Path) -> None:
    shutil.rmtree(shards)
    shutil.copytree(kept, shards)


HARMS = {
    "truncated": "[os.truncate(f, 4096) for f in FILES]",
    "deleted": "[f.unlink() for f in FILES]",
    "flipped": "[f.write_bytes(f.read_bytes()[:-1] + b'?') for f in [FILES[0]]]",
}


@pytest.mark.parametrize("harm", HARMS)
def test_shards_that_change_during_a_run(
    tmp_path: Path, inputs: Path, own_shards: Path, untroubled: Path, harm: str
) -> None:
    """Truncated: refused at the next cut. Deleted: the maps that are open stay readable. Both, and a byte that
    changed, are refused by size or hash when the run is started again; with the shards put back it goes on."""
    out = tmp_path / "run"
    files = f"sorted(Path({str(own_shards)!r}).glob('shard-*/signal.npy'))"
    job = training(
        inputs, out, at="step", call=4, trouble=HARMS[harm].replace("FILES", files), flag=str(tmp_path / "flag")
    )
    outcome = run(job)
    if harm == "truncated":
        refused(outcome, "signal.npy", "bytes left", "--resume")
        newest = newest_checkpoint(out / "checkpoints")
        assert newest is not None and newest.name == "step-000002"
    elif harm == "deleted":
        assert outcome == (0, "")
        same_end(out, untroubled)
    else:
        assert outcome == (0, "")
    words = {"truncated": "4096", "deleted": "must exist", "flipped": "changed bytes"}
    refused(run(job), "signal.npy", words[harm])
    restore(tmp_path / "kept", own_shards)
    assert run(job) == (0, "")
    if harm != "flipped":
        same_end(out, untroubled)


# two processes in one folder


@contextlib.contextmanager
def paused(job: Job) -> Iterator[subprocess.Popen[str]]:
    """A process that has come to the place of its trouble, and waits there until its flag says go."""
    process = start(job | {"trouble": "pause()"})
    try:
        deadline = time.monotonic() + 120
        while not Path(job["flag"]).exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("killed", [False, True])
def test_two_ingests_into_one_folder(tmp_path: Path, ingested: Path, killed: bool) -> None:
    out = tmp_path / "shards"
    with paused(ingesting(out, at="shard", call=1, flag=str(tmp_path / "flag"))) as first:
        refused(run(ingesting(out)), "one ingest, got another at work")
        if killed:
            first.send_signal(signal.SIGKILL)
            first.communicate()
            assert run(ingesting(out)) == (0, "")
        else:
            Path(f"{tmp_path / 'flag'}-go").touch()
            assert finish(first) == (0, "")
            refused(run(ingesting(out)), "got a finished one")
    assert tree(out) == tree(ingested)


@pytest.mark.parametrize("killed", [False, True])
def test_two_runs_into_one_folder(tmp_path: Path, inputs: Path, untroubled: Path, killed: bool) -> None:
    out = tmp_path / "run"
    with paused(training(inputs, out, at="step", call=4, flag=str(tmp_path / "flag"))) as first:
        before = tree(out)
        refused(run(training(inputs, out)), "one process at a time")
        assert tree(out) == before
        if killed:
            first.send_signal(signal.SIGKILL)
            first.communicate()
            assert run(training(inputs, out)) == (0, "")
        else:
            Path(f"{tmp_path / 'flag'}-go").touch()
            assert finish(first) == (0, "")
    same_end(out, untroubled)
