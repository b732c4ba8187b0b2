"""Future prediction: which of several frames comes after a context of frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ecgray.errors import EcgrayError
from ecgray.tasks.annotated import Int64
from ecgray.tasks.base import Annotations, Task


@dataclass(frozen=True, kw_only=True)
class FuturePrediction(Task):
    """A context of frames side by side, then an offset of frames that nobody sees, then the positive.

    The positive stands at a random place among the negatives, frames from the pool's patients, and that place is the
    target: it comes with the plan, and no annotation is needed.
    """

    name: ClassVar[str] = "future"
    paper: ClassVar[str] = "Weimann & Conrad 2021"

    context: int = 16
    """Frames side by side that are seen."""
    offset: int = 8
    """Frames after them that nobody sees, before the one to be found."""
    negatives: int = 8
    """Frames of the pool's patients among which it stands."""
    exclude_record: bool = False
    """Whether no negative is from the positive's own record; the published code excludes nothing (papers.md W32)."""
    logit_scale: Literal["head", "model"] = "head"
    """The root of what attention logits are divided by: a head's width, or the model's (the published code)."""

    def __post_init__(self) -> None:
        for field, least in (("context", 1), ("offset", 0), ("negatives", 1)):
            if getattr(self, field) < least:
                raise EcgrayError(
                    f"The {field} of future prediction must be at least {least}, got {getattr(self, field)}; "
                    "the defaults are 16, 8 and 8 frames."
                )

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def window(self, frame_size: int, fs: float) -> tuple[int, int]:
        return 0, (self.context + self.offset + 1) * frame_size

    def span(self, frame_size: int) -> int:
        return (self.context + 1) * frame_size

    def future_start(self, start: Int64, frame_size: int) -> Int64:
        """(n,) starts of the positives for (n,) starts of the contexts, in samples."""
        return start + (self.context + self.offset) * frame_size

    def targets(self, record: Int64, start: Int64, frame_size: int, annotations: Annotations) -> Int64:
        """Raises EcgrayError: the answer is drawn by the plan."""
        raise EcgrayError(
            "Targets from annotations need the task beat, rhythm or heart_rate, got future, whose answer is drawn with "
            "the frames; choose another task."
        )
