"""Where the trials of a sweep are, by what they have written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ecgray.progress import Progress
from ecgray.search import watching
from ecgray.search.config import SweepConfig
from ecgray.search.folder import SweepFolder


def write(folder: Path, name: str, *lines: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_trial_pretrains_and_then_finetunes(make_sweep: Callable[..., SweepConfig], tmp_path: Path) -> None:
    sweep, config = SweepFolder(tmp_path), make_sweep(seeds=2, epochs=4)
    assert watching.where(sweep, 3, config) == (0.0, "#3 step 0/8")
    run = sweep.trial(3) / "pretraining" / "run"
    write(run, "metrics.jsonl", {"kind": "labels", "step": 0}, {"kind": "train", "step": 2})
    assert watching.where(sweep, 3, config) == (0.125, "#3 step 2/8")  # of 8 steps, which are half of it
    seeds = sweep.trial(3) / "finetune" / "seeds"
    write(seeds / "seed-00", "metrics.jsonl", *({"epoch": epoch} for epoch in range(2)))
    assert watching.where(sweep, 3, config) == (0.625, "#3 seed 1/2")  # 2 of 8 epochs
    write(seeds / "seed-00", "chosen.json", {})
    write(seeds / "seed-01", "metrics.jsonl", {"epoch": 1})
    assert watching.where(sweep, 3, config) == (0.8125, "#3 seed 2/2")  # the first seed ended early


def test_a_sweep_shows_its_trials(
    make_sweep: Callable[..., SweepConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0.01)
    sweep, config, progress = SweepFolder(tmp_path), make_sweep(), Progress("sweep", 10, "trial", show=False)
    for number in (4, 5, 6):
        write(sweep.trial(number) / "pretraining" / "run", "metrics.jsonl", {"kind": "train", "step": 4})
    progress.to(3)  # of an earlier start
    looked = []

    def running() -> tuple[int, list[int]]:
        looked.append(1)
        return 1, [4, 5, 6]

    with watching.watched(progress, sweep, config, running):
        while len(looked) < 3:
            pass
    assert progress.done == pytest.approx(3 + 1 + 3 * 0.25)
    assert progress.fields["trials"] == "#4 step 4/8, #5 step 4/8 and 1 more"
