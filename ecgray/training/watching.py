"""What a run shows while it goes: lines in metrics.jsonl, TensorBoard events, its progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecgray.progress import Progress
from ecgray.training.events import Events
from ecgray.training.run import RunFolder


class Watch:
    """Takes the metrics of the first rank, and shows ``progress`` where there is one."""

    def __init__(self, run: RunFolder, step: int, *, validated: bool = True, progress: Progress | None = None) -> None:
        run.rewind_metrics(step, validated=validated)
        self._run = run
        self._events = Events(run.path / "events", step + 1 if step else 0)  # those steps are done again
        self._progress = progress

    def stepped(self, step: int, loss: float | None) -> None:
        """So many steps are begun; ``loss``: mean per frame since the last log line, as far as it is known."""
        if self._progress is not None:
            if loss is not None:
                self._progress.fields["loss"] = f"loss {loss:.3f}"
            self._progress.to(step)

    def add(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Keep ``values`` (JSON) under a kind ("labels", "train", "validation") and show the numbers among them.

        Raises EcgrayError or OSError when the disk refuses.
        """
        self._run.add_metrics({"kind": kind, "step": step, **values})
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, (int, float))}
        if numbers:
            self._events.add(numbers, step)
        if self._progress is None:
            return
        if kind == "train":
            self._progress.say(loss=f"loss {values['loss']:.3f}", speed=f"{values['frames_per_s']:,.0f} frames/s")
        elif kind == "validation":
            self._progress.note(
                f"step {step}: validation loss {values['loss']:.4f}, accuracy {values['accuracy']:.4f}, "
                f"balanced {values['balanced_accuracy']:.4f}"
            )
