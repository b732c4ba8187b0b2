"""The fixed validation frames through the network, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ecgray.sampling.plan import Plan
from ecgray.sampling.stream import Batch, validation_batches
from ecgray.shards.archive import Archive
from ecgray.tasks.base import IGNORED, Task
from ecgray.training.distributed import Distributed
from ecgray.training.objectives import Objective
from ecgray.training.standardise import Standardise
from ecgray.training.stopping import StopRequest, ValidationAbandoned

LOOK_EVERY = 8
"""Batches between two looks at the stop request."""


@dataclass(frozen=True)
class Validation:
    """Scores over ``frames`` counted frames; ``confusion`` (classes, classes): true by predicted."""

    loss: float
    accuracy: float
    balanced_accuracy: float
    frames: int
    confusion: list[list[int]]

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def until_stopped(
    archive: Archive, plan: Plan, task: Task, batch: int, stop: StopRequest, distributed: Distributed
) -> Iterator[Batch]:
    """This rank's validation frames, ``batch`` at a time. Raises ValidationAbandoned on all ranks before the same batch
    when one was asked to stop."""
    frames = len(plan.val_patients) * plan.sampling.val_frames_per_patient
    shared = -(-(frames // distributed.size) // batch)  # batches that every rank has; some have one more
    dealt = validation_batches(archive, plan, task, batch, distributed.rank, distributed.size)
    for number, rows in enumerate(dealt):
        if number < shared and number % LOOK_EVERY == 0 and distributed.total(stop()).item():
            raise ValidationAbandoned
        yield rows


@torch.no_grad()
def validate(
    network: nn.Module,
    batches: Iterable[Batch],
    classes: int,
    standardise: Standardise,
    objective: Objective,
    weights: Tensor | None,
    autocast: torch.autocast,
    distributed: Distributed,
) -> Validation:
    """Mean loss, accuracy, and mean recall over the classes that occur; the network is left in train mode.

    Every rank computes with the first rank's BatchNorm statistics, which are those that a checkpoint's model carries.
    """
    for buffer in network.buffers():
        distributed.from_first(buffer)
    network.eval()
    loss = torch.zeros(1, dtype=torch.float64, device=distributed.device)
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=distributed.device)
    for batch in batches:
        target = standardise.target(batch)
        with autocast:
            logits = network(standardise(batch))
        loss += objective.losses(logits, target, weights).sum(dtype=torch.float64)
        counted = target != IGNORED
        pairs = target[counted] * classes + logits.argmax(1)[counted]
        confusion += torch.bincount(pairs, minlength=classes * classes)
    network.train()
    distributed.sum(loss)
    distributed.sum(confusion)
    table = confusion.reshape(classes, classes).cpu()
    of_class = table.sum(1)
    recall = table.diagonal()[of_class > 0] / of_class[of_class > 0]
    frames = int(of_class.sum())
    return Validation(
        loss=loss.item() / max(frames, 1),
        accuracy=table.diagonal().sum().item() / max(frames, 1),
        balanced_accuracy=recall.mean().item() if len(recall) else 0.0,
        frames=frames,
        confusion=table.tolist(),
    )
