"""Leaving early, in good order: SIGINT and SIGTERM ask for a checkpoint, a second one ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from ecgray.errors import EcgrayError


class RunEnded(EcgrayError):
    """All workers left the run at the same step, for a reason that starting them again would not mend."""


class RunStopped(RunEnded):
    """The run was asked to stop, saved a checkpoint and left."""


class StopRequest:
    """Whether the run was asked to stop: by a signal to this process, by a file that the driver laid down, or by a
    ``notice``, which says who asks once somebody does."""

    def __init__(
        self, file: Path | None = None, poll_s: float = 0.5, notice: Callable[[], str | None] = lambda: None
    ) -> None:
        self._file, self._poll_s, self._next_look, self._notice = file, poll_s, 0.0, notice
        self.signal_name: str | None = None

    def __call__(self) -> bool:
        """Cheap enough for every step: file and notice are looked at now and then."""
        if self.signal_name is None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._poll_s
            if self._file is not None and self._file.exists():
                self.signal_name = self._file.read_text(encoding="utf-8").strip() or "a stop request"
            else:
                self.signal_name = self._notice()
        return self.signal_name is not None


@contextlib.contextmanager
def stop_on_signals(request: StopRequest, then: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into ``request`` (and call ``then``); the second has its usual effect.

    Only the main thread may take signals: elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signal_name is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        request.signal_name = signal.Signals(number).name
        then()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
