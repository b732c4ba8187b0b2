"""What the three tasks share whose answer is read from the annotations of the frame itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ecgray.errors import unknown
from ecgray.tasks.base import IGNORED, Annotations, Task

Int64 = npt.NDArray[np.int64]

ELSE = (
    "a task that needs no annotations (weimann2021_future), or weimann2021_heart_rate after "
    "'ecgray ingest ... --detect-beats'"
)
"""How who has no annotated records goes on."""


BEATS_APART = "where they lie in a file of their own: 'ecgray ingest ... --beats-annotator qrs'"
"""How who has beats beside the rhythms gets both."""


@dataclass(frozen=True, kw_only=True)
class AnnotatedTask(Task):
    """A question whose answer is read from the annotations of the frame itself.

    Where undefined frames are dropped, the classes after theirs move up.
    """

    paper: ClassVar[str] = "Weimann & Conrad 2021"
    every_class: ClassVar[tuple[str, ...]]
    no_answer: ClassVar[str]

    rule: Literal["paper", "code"] = "paper"
    """As the paper words it, or as its published code has it."""
    undefined: Literal["keep", "drop"] = "keep"
    """Frames without an answer are a class (keep), or are dropped and the class with them."""

    def __post_init__(self) -> None:
        if self.rule not in ("paper", "code"):
            raise unknown(f"rule of the task {self.name}", self.rule, ("paper", "code"))
        if self.undefined not in ("keep", "drop"):
            raise unknown(f"treatment of undefined frames in the task {self.name}", self.undefined, ("keep", "drop"))

    @property
    def classes(self) -> tuple[str, ...]:
        if self.undefined == "keep":
            return self.every_class
        return tuple(name for name in self.every_class if name != self.no_answer)

    def targets(self, record: Int64, start: Int64, frame_size: int, annotations: Annotations) -> Int64:
        answers = self.answers(record, start, frame_size, annotations)
        if self.undefined == "keep":
            return answers
        dropped = self.every_class.index(self.no_answer)
        moved = np.arange(len(self.every_class), dtype=np.int64)
        moved[dropped:] -= 1
        moved[dropped] = IGNORED
        return moved[answers]

    def answers(self, record: Int64, start: Int64, frame_size: int, annotations: Annotations) -> Int64:
        """(n,) indices into ``every_class``; arguments as of ``targets``."""
        raise NotImplementedError


def most(values: Int64) -> Int64:
    """(n, k) to (n,): the column of the largest value, the first of several equal ones."""
    return values.argmax(axis=1).astype(np.int64, copy=False)
