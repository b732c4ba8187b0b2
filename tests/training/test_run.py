"""The run folder: what it refuses, what it keeps, and a lock that dies with its owner."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgray.errors import EcgrayError
from ecgray.training import run as run_module
from ecgray.training.config import OptimiserConfig, PretrainConfig
from ecgray.training.run import RunFolder, locked, open_run, read_config, run_hash

MakeConfig = Callable[..., PretrainConfig]


def opened(out: Path, config: PretrainConfig, *, resume: bool = False, hashes: tuple[str, ...] = ("abc",)) -> RunFolder:
    with open_run(out, config, hashes, resume=resume, workers=0, steps=12) as run:
        return run


def test_config_and_environment_are_written(tmp_path: Path, make_config: MakeConfig) -> None:
    run = opened(tmp_path / "run", make_config())
    assert read_config(run.path) == make_config()
    environment = json.loads(run.environment.read_text())
    assert environment["manifest_hashes"] == ["abc"]
    assert environment["config_hash"] == run_hash(make_config(), ["abc"])
    assert {"torch", "ray", "python", "ecgray"} <= environment["versions"].keys()
    assert len(environment["starts"]) == 1
    opened(run.path, make_config(), resume=True)
    assert len(json.loads(run.environment.read_text())["starts"]) == 2


def test_the_hash_names_what_is_computed(make_config: MakeConfig) -> None:
    config = make_config()
    moved = replace(config, data=replace(config.data, shards=("/elsewhere",)))
    seeded = replace(config, training=replace(config.training, seed=1))
    assert run_hash(config, ["a"]) == run_hash(moved, ["a"])
    assert len({run_hash(config, ["a"]), run_hash(config, ["b"]), run_hash(seeded, ["a"])}) == 3


def test_an_existing_run_is_refused_without_resume(tmp_path: Path, make_config: MakeConfig) -> None:
    opened(tmp_path / "run", make_config())
    with pytest.raises(EcgrayError, match="--resume"):
        opened(tmp_path / "run", make_config())


def test_a_folder_with_other_files_is_refused(tmp_path: Path, make_config: MakeConfig) -> None:
    (tmp_path / "thesis.txt").write_text("")
    for resume in (False, True):
        with pytest.raises(EcgrayError, match="other files"):
            opened(tmp_path, make_config(), resume=resume)
    with pytest.raises(EcgrayError, match="must be a folder"):
        opened(tmp_path / "thesis.txt", make_config())
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_start_that_was_killed_before_its_config_was_there_is_no_other_file(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    for name in ("lock", "environment.json", "config.json.partial-4711"):
        (tmp_path / name).write_text("")
    (tmp_path / "environment.json").write_text(json.dumps({"starts": []}))
    assert len(json.loads(opened(tmp_path, make_config(), resume=True).environment.read_text())["starts"]) == 1


def test_a_changed_config_is_refused_and_named(tmp_path: Path, make_config: MakeConfig) -> None:
    run = opened(tmp_path / "run", make_config())
    changed = replace(make_config(), optimiser=OptimiserConfig(learning_rate=0.5, clip_norm=1.0))
    with pytest.raises(EcgrayError) as refusal:
        opened(run.path, changed, resume=True)
    assert "optimiser.learning_rate (0.001 -> 0.5)" in str(refusal.value)
    assert "optimiser.clip_norm" in str(refusal.value)
    with pytest.raises(EcgrayError, match=r"data\.shards"):
        opened(run.path, make_config(), resume=True, hashes=("other",))
    opened(run.path, make_config(steps=99), resume=True)
    assert read_config(run.path).training.steps == 99


def test_a_misspelt_field_is_named_with_its_neighbour(tmp_path: Path, make_config: MakeConfig) -> None:
    run = opened(tmp_path / "run", make_config())
    values = json.loads(run.config.read_text())
    values["training"]["batch_sise"] = values["training"].pop("batch_size")
    run.config.write_text(json.dumps(values))
    with pytest.raises(EcgrayError, match=r"batch_sise.*batch_size"):
        read_config(run.path)


def test_two_processes_cannot_use_one_run_and_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from ecgray.training.run import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    lock = tmp_path / "lock"
    owner = subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None and owner.stdout.readline() == "held\n"
        with pytest.raises(EcgrayError, match="another one is using"), locked(lock):
            pass
        os.kill(owner.pid, signal.SIGKILL)
        with locked(lock, patience_s=10):
            assert lock.read_text() == f"{os.getpid()}\n"
    finally:
        owner.kill()
        owner.wait()


def test_metrics_are_rewound_to_the_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.add_metrics({"kind": "train", "step": step})
    with open(run.metrics, "a") as file:
        file.write('{"kind": "tra')
    run.rewind_metrics(2)
    assert [line["step"] for line in run.read_metrics()] == [1, 2]


FOREIGN = [b"7", b"{}", b'{"step": "x"}', b'{"step": true}', b"\xff", b"\0" * 40, b'{"kind": "tra', b'{"step": 1}[']


@st.composite
def histories(draw: st.DrawFn) -> bytes:
    """A metrics.jsonl: steps ascend, some validated, with other lines anywhere, cut off anywhere at its end."""
    lines = [json.dumps({"kind": "labels", "step": 0, "histogram": {"N": 1}}).encode()] if draw(st.booleans()) else []
    step = 0
    for more, validates in draw(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30)):
        step += more
        kinds = ["train", *(["validation"] if validates else [])]
        lines += [json.dumps({"kind": kind, "step": step, "loss": 1 / (1 + step)}).encode() for kind in kinds]
    for place, line in draw(st.lists(st.tuples(st.integers(0, len(lines)), st.sampled_from(FOREIGN)), max_size=8)):
        lines.insert(place, line)
    content = b"".join(line + b"\n" for line in lines)
    return content[: len(content) - draw(st.integers(0, 60))] if content else content


def whole_lines(content: bytes) -> list[dict[str, Any]]:
    found: list[Any] = []
    for line in content.split(b"\n"):
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict) and type(line.get("step")) is int]


@given(content=histories(), step=st.integers(0, 40), validated=st.booleans(), block=st.integers(1, 500))
def test_rewinding_is_a_filter_over_all_lines(content: bytes, step: int, validated: bool, block: int) -> None:
    kept = [line for line in whole_lines(content) if 0 < step >= line["step"]]
    if not validated:
        kept = [line for line in kept if (line.get("kind"), line["step"]) != ("validation", step)]
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(run_module, "BLOCK_BYTES", block):
        run = RunFolder(Path(folder))
        run.metrics.write_bytes(content)
        start = run.find_metrics(step)
        assert all(line["step"] < step for line in whole_lines(content[:start]))
        run.rewind_metrics(step, validated=validated)
        assert run.read_metrics() == kept
        after = run.metrics.read_bytes()[start:]  # what was torn is gone: the next line is one of its own
        assert after.splitlines() == [json.dumps(line).encode() for line in whole_lines(after)]
        run.add_metrics({"kind": "train", "step": step + 1})
        assert run.read_metrics() == [*kept, {"kind": "train", "step": step + 1}]


def test_rewinding_a_long_file_holds_and_reads_its_end_alone(tmp_path: Path) -> None:
    run, steps = RunFolder(tmp_path), 10_000
    lines = [json.dumps({"kind": "train", "step": step, "long": 500 * "-"}) + "\n" for step in range(1, steps + 1)]
    run.metrics.write_text("".join(lines))
    tracemalloc.start()
    try:
        run.rewind_metrics(steps - 100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert run.metrics.read_text() == "".join(lines[:-100])
    assert peak < run.metrics.stat().st_size / 2


def test_best_leads_to_a_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (5, 10):
        (run.checkpoints / f"step-{step:06d}").mkdir(parents=True)
        run.point_best(step)
        assert run.best.resolve() == run.checkpoints / f"step-{step:06d}"
    run.point_best(None)
    assert not run.best.exists()


def test_no_password_is_written_with_the_command(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [
        "--storage=postgresql+psycopg://user:hunter2@db.example:5432/studies",
        "postgresql://user:hunter2?@hunter2/@db.example/studies",
        "postgresql://db.example/studies?user=user&password=@hunter2",
        "https://hunter2@mlflow.example",
    ]
    others = ["s3://bucket/run", "me@home?", "sqlite:///study.db"]
    monkeypatch.setattr(sys, "argv", ["ecgray", *urls, *others])
    written = opened(tmp_path / "run", make_config()).environment.read_text()
    assert "hunter2" not in written
    kinds = ["--storage=postgresql+psycopg", "postgresql", "postgresql", "https"]
    assert json.loads(written)["command"] == ["ecgray", *(f"{kind}://***" for kind in kinds), *others]


@pytest.mark.parametrize(
    ("field", "value"), [("threads", 10**11), ("seed", 2**64), ("seed", -1), ("batch_size", 10**10), ("steps", 10**30)]
)
def test_settings_out_of_range_are_refused(field: str, value: int, make_config: MakeConfig) -> None:
    with pytest.raises(EcgrayError, match=rf"training\.{field} must be .*, got {value}"):
        make_config(**{field: value})
