"""The bare PyTorch loop that the training loop is held against, and the training loop made ready to be timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional as F

from ecgray.models import ResNet
from ecgray.recipes import find_recipe
from ecgray.sampling.plan import make_plan
from ecgray.sampling.stream import Batch, open_stream
from ecgray.shards.archive import open_archive
from ecgray.training import loop
from ecgray.training.config import PretrainConfig
from ecgray.training.distributed import Distributed
from ecgray.training.run import open_run
from ecgray.training.stopping import StopRequest


def config_of(shards: Path, *, steps: int, model: dict[str, Any] | None = None, **training: Any) -> PretrainConfig:
    """The beat recipe for ``steps`` steps, which nothing but the last of them interrupts."""
    config = find_recipe("weimann2021_beat", "pretrain").make()
    assert isinstance(config, PretrainConfig) and isinstance(config.model, ResNet)
    return replace(
        config,
        data=replace(config.data, shards=(str(shards),), verify="sizes"),
        sampling=replace(config.sampling, val_frames_per_patient=1),
        model=replace(config.model, **(model or {})),
        training=replace(config.training, steps=steps, validate_every=steps, checkpoint_every=steps, **training),
    )


class BareLoop:
    """A step on one fixed random batch, as one would write it with nothing around: the same network, optimiser and
    precision as ``config``."""

    def __init__(self, config: PretrainConfig, device: torch.device, *, compiled: bool = False) -> None:
        batch, samples, task = config.training.batch_size, config.sampling.frame_size, config.task
        self.network = loop.network_of(config, 1).to(device).train()
        if compiled:
            self.network.compile()
        self.signal = torch.randn(batch, 1, samples, device=device)
        self.target = torch.randint(len(task.classes), (batch,), device=device)
        settings = config.optimiser
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bf16")

    def step(self) -> torch.Tensor:
        """One step; its loss, on the device."""
        with self._autocast:
            logits = self.network(self.signal)
        loss = F.cross_entropy(logits.float(), self.target)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.detach()


def train(
    config: PretrainConfig,
    device: torch.device,
    backend: Literal["local", "ray"],
    around: Callable[[Iterator[Batch]], Iterator[Batch]],
    report: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """ecgray's training loop in this process, with ``around`` its stream; the run folder is thrown away."""
    archive = open_archive(config.data.shards)
    plan = make_plan(archive, config.sampling, config.task, config.training.batch_size)
    with tempfile.TemporaryDirectory(prefix="ecgray-bench-") as folder, _streams(around):
        hashes = [manifest.hash for manifest in archive.manifests]
        steps = loop.last_step_of(config, plan)
        with open_run(Path(folder) / "run", config, hashes, resume=False, workers=0, steps=steps) as run:
            alone = Distributed(device=device)
            training = loop.Training(
                config, run, archive, plan, alone, backend=backend, stop=StopRequest(), report=report
            )
            training.go()


@contextmanager
def _streams(around: Callable[[Iterator[Batch]], Iterator[Batch]]) -> Iterator[None]:
    def opened(*arguments: Any, **settings: Any) -> Iterator[Batch]:
        return around(open_stream(*arguments, **settings))

    loop.open_stream = opened
    try:
        yield
    finally:
        loop.open_stream = open_stream


@dataclass
class Turns:
    """Times of a bare step and of one of the loop's, turn by turn, in seconds, and of the wait for the batch."""

    bare: list[float]
    loop: list[float]
    wait: list[float]


def in_turns(config: PretrainConfig, backend: Literal["local", "ray"], report: Any = None) -> Turns:
    """On the CPU: before each batch that the loop asks for, the bare loop takes a step, so that whatever slows the
    machine slows both. The first step (which allocates) and the last (which validates and saves) are left out."""
    bare, turns = BareLoop(config, torch.device("cpu")), Turns([], [], [])

    def around(stream: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            times = [time.perf_counter()]
            batch = next(stream, None)
            times.append(time.perf_counter())
            if batch is None:
                return
            bare.step().item()
            times.append(time.perf_counter())
            yield batch
            times.append(time.perf_counter())
            for kept, first, last in ((turns.wait, 0, 1), (turns.bare, 1, 2), (turns.loop, 2, 3)):
                kept.append(times[last] - times[first])

    train(config, torch.device("cpu"), backend, around, report)
    return Turns(*(kept[1:-1] for kept in (turns.bare, turns.loop, turns.wait)))
