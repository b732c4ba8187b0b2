"""A few words between the driver and the workers of one start, in the cluster's key-value store: no folder is needed
that both of them see."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ecgray.progress import Progress

STOP, ENDED, PROGRESS = "stop", "ended", "progress"
"""A signal that the driver got; how the workers left the run; where they are (JSON, see ``Told``)."""
KEPT_NOTES = 20
"""Lines that are told again each time, lest one is missed."""
TELL_EVERY_S = 2.0
"""How often the workers say where they are."""
_NAMESPACE = b"ecgray"


@dataclass(frozen=True)
class Messages:
    """What is said of the start ``start``; each of its processes may put and get."""

    start: str

    def put(self, name: str, text: str) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(self._key(name), text.encode(), overwrite=True, namespace=_NAMESPACE)

    def get(self, name: str) -> str | None:
        from ray.experimental.internal_kv import _internal_kv_get

        text = _internal_kv_get(self._key(name), namespace=_NAMESPACE)
        return None if text is None else text.decode()

    def forget(self) -> None:
        from ray.experimental.internal_kv import _internal_kv_del

        for name in (STOP, ENDED, PROGRESS):
            _internal_kv_del(self._key(name), namespace=_NAMESPACE)

    def _key(self, name: str) -> bytes:
        return f"{self.start}/{name}".encode()


class Told(Progress):
    """The progress of the first worker, which is shown by the driver: no terminal is a worker's own."""

    def __init__(self, messages: Messages, total: float) -> None:
        super().__init__("", total, "step", show=False)
        self._messages, self._notes = messages, list[str]()
        self._every = TELL_EVERY_S

    def note(self, text: str) -> None:
        self._notes.append(text)

    def draw(self) -> None:
        values: dict[str, Any] = {"done": self.done, "total": self.total, "fields": self.fields}
        values |= {"noted": len(self._notes), "notes": self._notes[-KEPT_NOTES:]}
        self._messages.put(PROGRESS, json.dumps(values))


class Hearing:
    """The driver's end of ``Told``: what one start says, shown on ``progress``."""

    def __init__(self, messages: Messages, progress: Progress) -> None:
        self._messages, self._progress, self._noted = messages, progress, 0

    def look(self) -> None:
        text = self._messages.get(PROGRESS)
        if text is None:
            return
        values = json.loads(text)
        new = values["noted"] - self._noted
        for note in values["notes"][-new:] if new else ():
            self._progress.note(note)
        self._noted = values["noted"]
        self._progress.total = values["total"]
        self._progress.say(**values["fields"])
        self._progress.to(values["done"])
