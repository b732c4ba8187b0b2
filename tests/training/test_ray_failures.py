"""What ends a run on Ray beside a signal: a disk that refuses a worker, workers that are lost again and again. No Ray
is started: the worker runs here, or a start of all of them is made up."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ecgray.cli import main
from ecgray.config import to_dict
from ecgray.errors import Passing
from ecgray.sampling import ray_data
from ecgray.training import ray_train
from ecgray.training.config import PretrainConfig
from ecgray.training.messages import ENDED, Messages
from ecgray.training.run import locked

MakeConfig = Callable[..., PretrainConfig]


@pytest.mark.parametrize("refused", [True, False])
def test_a_worker_says_what_the_disk_refuses_and_leaves_lost_connections_to_the_next_start(
    refused: bool, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray_worker = pytest.importorskip("ecgray.training.ray_worker")
    said: dict[str, str] = {}
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1, get_local_world_size=lambda: 1)
    monkeypatch.setattr(ray_worker.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray_worker, "RayMetrics", lambda *_: SimpleNamespace(publish=None))
    monkeypatch.setattr(Messages, "put", lambda self, name, text: said.update({name: text}))
    run = tmp_path / "run"
    if refused:
        (run / "best").mkdir(parents=True)
    else:

        def lost(*_: object) -> None:
            raise ConnectionResetError("the head is gone")

        monkeypatch.setattr(ray_worker, "open_archive", lost)
    settings = {
        "config": to_dict(make_config()),
        "run": str(run),
        "lock": None,
        "backend": "local",
        "start": "one",
        "shown": False,
    }
    with pytest.raises(OSError):
        ray_worker.work(settings)
    if refused:
        ended = json.loads(said[ENDED])
        assert not ended["stopped"] and f"{run / 'best'}" in ended["message"] and "--resume" in ended["message"]
    else:
        assert not said


@pytest.mark.parametrize("held", ["the CPUs", "the lock"])
def test_a_worker_leaves_what_passes_by_itself_to_the_next_start(
    held: str, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is lost after the workers were given places, as if it were there, leaves them all on another one;
    a worker of an earlier start lives on for a while on a node that was cut off."""
    ray_worker = pytest.importorskip("ecgray.training.ray_worker")
    said: dict[str, str] = {}
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1, get_local_world_size=lambda: 1)
    monkeypatch.setattr(ray_worker.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray_worker.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray_worker, "RayMetrics", lambda *_: SimpleNamespace(publish=None))
    monkeypatch.setattr(ray_worker, "HANDOVER_S", 0.0)
    monkeypatch.setattr(ray_data, "free_nodes", lambda: [{"CPU": 0.0}])
    monkeypatch.setattr(Messages, "put", lambda self, name, text: said.update({name: text}))
    monkeypatch.setattr(Messages, "get", lambda self, name: None)
    run = tmp_path / "run"
    run.mkdir()
    settings = {
        "config": to_dict(make_config()),
        "run": str(run),
        "lock": None,
        "backend": "ray",
        "start": "one",
        "shown": False,
    }
    with contextlib.ExitStack() as stack:
        if held == "the lock":
            stack.enter_context(locked(run / "writer.lock"))
        with pytest.raises(Passing, match="one process" if held == "the lock" else "Ray Data needs 0.25 CPU"):
            ray_worker.work(settings)
    assert not said


def test_workers_lost_again_and_again_end_in_one_line(
    small_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts: list[Any] = []

    def lost(*start: Any) -> tuple[None, Exception]:
        starts.append(start)
        return None, RuntimeError(
            "Training failed:\nTraceback (most recent call last):\n  ...\nKilled: out of memory\n"
        )

    monkeypatch.setattr(ray_train, "_start", lost)
    monkeypatch.setattr(ray_train, "_wait_for_room", lambda *_: None)
    monkeypatch.setattr(ray_train, "ask_for", lambda _: None)
    monkeypatch.setattr(ray_train, "connected", contextlib.nullcontext)
    words = f"pretrain weimann2021_beat --data {small_archive} --sampling.val-fraction 0.25 --sampling.frame-size 64"
    words += f" --model.width 4 --training.steps 2 --out {tmp_path / 'run'} --workers 1"
    assert main(words.split()) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert len(starts) == ray_train.MAX_FAILURES + 1
    assert said.startswith("ecgray: The workers of") and "--resume" in said
    assert "Killed: out of memory; the last good checkpoint is none yet" in said
