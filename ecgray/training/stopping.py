"""Leaving early, in good order: SIGINT and SIGTERM ask for a checkpoint, a second one ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from ecgray.errors import EcgrayError


class RunEnded(EcgrayError):
    """All workers left the run at the same step, for a reason that starting them again would not mend."""


class RunStopped(RunEnded):
    """The run was asked to stop, saved a checkpoint and left."""


class ValidationAbandoned(Exception):
    """All workers left a validation at the same batch, since the run was asked to stop."""


class StopRequest:
    """Whether the run was asked to stop: by a signal to this process, or by the driver, who is asked by ``heard``."""

    def __init__(self, heard: Callable[[], str | None] | None = None, poll_s: float = 0.5) -> None:
        self._heard, self._poll_s, self._next_look = heard, poll_s, 0.0
        self.signal_name: str | None = None

    def __call__(self) -> bool:
        """Cheap enough for every step: the driver is asked now and then."""
        if self.signal_name is None and self._heard is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._poll_s
            self.signal_name = self._heard()
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
