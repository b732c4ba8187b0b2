"""What a run shows while it goes: lines in metrics.jsonl, TensorBoard events, a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from ecgray.training.events import Events
from ecgray.training.run import RunFolder


class Watch:
    """Takes the metrics of the first rank. ``show_progress``: a bar with frames/s and the time left on stderr."""

    def __init__(
        self, run: RunFolder, step: int, last_step: int, *, validated: bool = True, show_progress: bool
    ) -> None:
        run.rewind_metrics(step, validated=validated)
        self._run = run
        self._events = Events(run.path / "events", step + 1 if step else 0)  # those steps are done again
        self._bar = progress_bar(step, last_step) if show_progress else None

    def stepped(self) -> None:
        """One step is done."""
        if self._bar is not None:
            self._bar.update()

    def add(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Keep ``values`` (JSON) under a kind ("labels", "train", "validation") and show the numbers among them.

        Raises EcgrayError or OSError when the disk refuses.
        """
        self._run.add_metrics({"kind": kind, "step": step, **values})
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, (int, float))}
        if numbers:
            self._events.add(numbers, step)
        if self._bar is not None:
            show_metrics(self._bar, kind, step, values)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def progress_bar(step: int, last_step: int | None) -> Any:
    """A tqdm bar over steps; silent where stderr is no terminal."""
    return tqdm(
        total=last_step, initial=step, unit="step", dynamic_ncols=True, file=sys.stderr, disable=not sys.stderr.isatty()
    )


def show_metrics(bar: Any, kind: str, step: int, values: Mapping[str, Any]) -> None:
    """Beside the bar: frames/s and loss, and the last validation."""
    if kind == "train":
        bar.set_postfix_str(f"{values['frames_per_s']:,.0f} frames/s, loss {values['loss']:.4f}")
    elif kind == "validation":
        bar.write(
            f"step {step}: validation loss {values['loss']:.4f}, accuracy {values['accuracy']:.4f}, "
            f"balanced {values['balanced_accuracy']:.4f}",
            file=sys.stderr,
        )
