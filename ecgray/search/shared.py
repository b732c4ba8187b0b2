"""Pretraining that several trials share: done once, rung by rung, under the hash of what it computes."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ecgray.finetuning.protocol import finetune
from ecgray.search.config import SweepConfig
from ecgray.search.folder import SweepFolder, append_json, read_lines
from ecgray.training.checkpoint import newest_checkpoint, step_folder
from ecgray.training.config import PretrainConfig
from ecgray.training.model_folder import read_json
from ecgray.training.pretraining import pretrain
from ecgray.training.run import RunFolder, locked, read_config, run_hash


@dataclass(frozen=True, kw_only=True)
class Devices:
    """What a trial computes on. workers: 1 trains in the trial's own actor, more on Ray Train; threads: of the actor
    and of each worker; devices: that its seconds count for (workers, or its share of a GPU); most_cpus: that each of
    its workers reserves."""

    workers: int = 1
    threads: int = 1
    devices: float = 1.0
    most_cpus: float = math.inf


class SharedPretraining:
    """The pretraining of a trial, in ``pretraining/<hash>``. One process at a time works on it, under ``alone``."""

    def __init__(
        self, sweep: SweepFolder, base: SweepConfig, config: PretrainConfig, hashes: Sequence[str], devices: Devices
    ) -> None:
        self.name = run_hash(config, hashes)
        self._folder = sweep.pretraining(self.name)
        self._base, self._config, self._devices = base, config, devices

    @property
    def run(self) -> Path:
        return self._folder / "run"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other trial works on it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder / "lock", math.inf):
            yield

    def train_to(self, steps: int) -> int:
        """Go on from the newest checkpoint to the one after ``steps``; returns how many steps were left to do.

        A stretch ends with its workers gone, so that a trial that is stopped between two holds nothing.
        """
        newest = newest_checkpoint(RunFolder(self.run).checkpoints)
        done = 0 if newest is None else int(newest.name.removeprefix("step-"))
        if done >= steps:
            return 0
        threads = self._config.training.threads or self._devices.threads
        if (self.run / "config.json").is_file():  # begun elsewhere, perhaps with other threads: they are kept
            threads = read_config(self.run).training.threads or threads
        training = replace(self._config.training, steps=steps, threads=threads)
        workers = self._devices.workers
        began = time.monotonic()
        pretrain(
            replace(self._config, training=training),
            self.run,
            workers=workers if workers > 1 else 0,
            backend="local",
            resume=True,
            show_progress=False,
            most_cpus=self._devices.most_cpus,
            patient=True,
        )
        self._note("pretrain", steps, began)
        return steps - done

    def probe(self, steps: int) -> float:
        """Macro F1 on validation of the probe of the checkpoint after ``steps``, which must be the newest one."""
        out = self._folder / "probes" / f"step-{steps:06d}"
        if not (out / "scores.json").is_file():
            began = time.monotonic()
            checkpoint = step_folder(RunFolder(self.run).checkpoints, steps)
            config = self._base.probing(self._config, str(checkpoint))
            finetune(
                config,
                out,
                workers=seeds_side_by_side(self._devices, 1),
                resume=True,
                with_test=False,
                show_progress=False,
                most_cpus=self._devices.most_cpus,
            )
            self._note("probe", steps, began)
        return validation_score(out)

    def device_seconds(self) -> float:
        """What it took up to now, whoever did it."""
        return sum(line["seconds"] * line["devices"] for line in read_lines(self._folder / "work.jsonl"))

    def _note(self, kind: str, steps: int, began: float) -> None:
        values = {"kind": kind, "steps": steps, "seconds": round(time.monotonic() - began, 3)}
        append_json(self._folder / "work.jsonl", values | {"devices": self._devices.devices})


def seeds_side_by_side(devices: Devices, seeds: int) -> int:
    """Workers for finetuning ``seeds``: none in an actor that has the devices itself, else up to as many as it may."""
    return min(devices.workers, seeds) if devices.workers > 1 else 0


def validation_score(run: Path) -> float:
    """Mean macro F1 on validation over the seeds of a finetuning run."""
    return float(read_json(run / "scores.json")["splits"]["val"]["scores"]["macro_f1"]["mean"])
