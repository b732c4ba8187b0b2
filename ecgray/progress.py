"""How far a long work is, on stderr: a bar on a terminal, a line every minute elsewhere. The one home of both.

What is worked on says where it is as often as it likes; that costs a look at the clock. Nothing is written by a process
whose terminal another one writes to (``show`` False), nor to stdout, which is for what programs read.
"""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

BAR_S, LINE_S, FIRST_LINE_S = 0.2, 60.0, 5.0
"""Between two drawings of a bar; between two lines, and before the first of them."""
ADVICE_UNITS, ADVICE_S = 10, 20.0
"""How much is done, or how long it has taken, before the whole duration is told: the first unit warms up."""
_ORDER = {"best": 0, "trials": 2, "speed": 2}
"""Of what is told beside a progress; all else stands between them."""
Advice = Callable[[float, float], "str | None"]
"""(seconds that are left, units in a second) -> what is said once of a work that takes long."""


class Progress:
    """Where a work of ``total`` units is.

    ``base`` is added to what ``to`` is told: parts of a work count from 0, up to ``part``. ``fields`` are told beside
    it, the best score first; ``say`` sets them.
    """

    def __init__(self, what: str, total: float | None, unit: str, *, show: bool = True) -> None:
        self.what, self.total, self.unit, self.base = what, total, unit, 0.0
        self.part: float | None = None
        self.fields: dict[str, str] = {}
        self.done = 0.0
        self._advice: Advice | None = None
        self._began: tuple[float, float] | None = None
        self._due = 0.0
        self._shown, self._terminal = show, show and on_terminal()
        self._every = BAR_S if self._terminal else LINE_S
        self._bar: Any = None  # made when it is first drawn, below what is said before

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, **fields: str) -> None:
        """Set what is told beside the progress; an empty text takes it out."""
        self.fields.update(fields)

    def to(self, done: float) -> None:
        """So much is done now."""
        now = time.monotonic()
        self.done = self.base + done
        if self._began is None or self.done < self._began[0]:  # a start, or one more after lost workers
            self._began = self.done, now
            self._due = now + (0.0 if self._terminal else FIRST_LINE_S)
        if self._advice is not None:
            self._advise(now)
        if now >= self._due:
            self._due = now + self._every
            self.draw()

    def advise(self, advice: Advice) -> None:
        """Ask ``advice`` once, after the first units."""
        self._advice = advice

    def due(self) -> bool:
        """Whether the next ``to`` draws: what is told beside it is worth fetching."""
        return time.monotonic() >= self._due

    def skip(self, units: float) -> None:
        """So much of the whole needs no work: it counts as done, and not for the rate."""
        if self._began is not None:
            self._began = self._began[0] + units, self._began[1]

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._terminal:
            tqdm.write(fitted(text), file=sys.stderr)
        elif self._shown:
            print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def draw(self) -> None:
        """Show where the work is."""
        if not self._shown:
            return
        left = self.left_s()
        left_words = [] if left is None else [f"{duration(left)} left"]
        fields = {name: text for name, text in self.fields.items() if text} | {"count": self._count()}
        said = [text for _, text in sorted(fields.items(), key=lambda item: _ORDER.get(item[0], 1))]
        if not self._terminal:
            said.remove(fields["count"])
            self.note(f"{self.what}: {', '.join([fields['count'], *said, *left_words])}")
            return
        if self._bar is None:
            form = "{desc} {percentage:3.0f}%|{bar:8}| {unit}"
            self._bar = tqdm(file=sys.stderr, dynamic_ncols=True, leave=False, bar_format=form, total=self.total)
        self._bar.total, self._bar.n = self.total, min(self.done, self.total or self.done)
        self._bar.desc, self._bar.unit = self.what, ", ".join([*left_words, *said])
        self._bar.refresh()

    def _count(self) -> str:
        count, total = (self.done, self.total) if self.part is None else (self.done - self.base, self.part)
        counted = f"{self.unit} {count:.3g}" if count % 1 else f"{self.unit} {count:.0f}"
        return counted if total is None else f"{counted}/{total:.0f}"

    def left_s(self) -> float | None:
        """Seconds that the rest takes at the rate so far; None where that is not known yet."""
        rate = self._rate(time.monotonic())
        return None if self.total is None or rate is None else max(0.0, self.total - self.done) / rate

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _rate(self, now: float) -> float | None:
        if self._began is None or self.done <= self._began[0] or now <= self._began[1]:
            return None
        return (self.done - self._began[0]) / (now - self._began[1])

    def _advise(self, now: float) -> None:
        assert self._began is not None and self._advice is not None
        worked, rate, left = self.done - self._began[0], self._rate(now), self.left_s()
        if rate is None or left is None or (worked < ADVICE_UNITS and now - self._began[1] < ADVICE_S):
            return
        text = self._advice(left, rate)
        self._advice = None
        if text:
            self.note(text)


def on_terminal() -> bool:
    """Whether stderr is a terminal whose reader sees this process, and not another one in front of it."""
    if not sys.stderr.isatty():
        return False
    with contextlib.suppress(OSError):  # a terminal that controls no process
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    return True


def announce(show: bool, *lines: str) -> None:
    """Lines on stderr, before a work starts or at its end."""
    if show:
        print("\n".join(map(fitted, lines)), file=sys.stderr, flush=True)


def fitted(text: str) -> str:
    """``text`` as it is, on a terminal folded to its width."""
    if not sys.stderr.isatty():
        return text
    width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    lines = textwrap.wrap(
        text, max(20, width - 1), subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
    )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min", "14 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 10 and minutes else f"{hours} h"
