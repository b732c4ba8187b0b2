"""TensorBoard's event files, written at once by whoever has something to show.

tensorboardX's own writer hands everything to a thread that dies of the first write which the disk refuses, after which
the next values wait for it for ever.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c


class Events:
    """A new event file in ``folder``; what older ones hold of ``from_step`` (None: of no step) and later is hidden.

    Raises OSError when the disk refuses.
    """

    def __init__(self, folder: Path, from_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
        self._append(from_step or 0, file_version="brain.Event:2")
        if from_step is not None:
            self._append(from_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Show ``values`` by their tags at ``step``. Raises OSError when the disk refuses."""
        shown = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._append(step, summary=Summary(value=shown))

    def _append(self, step: int, **what: Any) -> None:
        data = Event(step=step, wall_time=time.time(), **what).SerializeToString()
        length = struct.pack("<Q", len(data))
        with open(self._file, "ab") as file:
            file.write(length + _checksum(length) + data + _checksum(data))


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))
