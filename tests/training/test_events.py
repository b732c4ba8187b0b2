"""Event files as TensorBoard reads them: lengths, checksums (bit by bit here) and what is in the records."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from ecgray.training.config import PretrainConfig
from ecgray.training.pretraining import pretrain
from ecgray.training.run import RunFolder


def masked_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events_of(file: Path) -> Iterator[Event]:
    content = file.read_bytes()
    while content:
        length, check = struct.unpack("<QI", content[:12])
        data, (check_of_data,) = content[12 : 12 + length], struct.unpack("<I", content[12 + length : 16 + length])
        assert check == masked_crc32c(content[:8]) and check_of_data == masked_crc32c(data)
        yield Event.FromString(data)
        content = content[16 + length :]


def test_they_show_what_the_metrics_say_and_a_resume_hides_what_is_done_again(
    make_config: Callable[..., PretrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(steps=4)
    run = RunFolder(pretrain(config, tmp_path / "run", show_progress=False))
    (file,) = (run.path / "events").iterdir()
    assert "tfevents" in file.name
    first, started, *shown = events_of(file)
    assert first.file_version == "brain.Event:2"
    assert (started.step, started.session_log.status) == (0, SessionLog.START)
    numbers = [
        (line["step"], f"{line['kind']}/{name}", pytest.approx(value, rel=1e-6))
        for line in run.read_metrics()
        for name, value in line.items()
        if name != "step" and isinstance(value, (int, float))
    ]
    assert len(numbers) > 5
    assert [(event.step, value.tag, value.simple_value) for event in shown for value in event.summary.value] == numbers

    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)  # a file of its own
    more = replace(config, training=replace(config.training, steps=6))
    pretrain(more, run.path, resume=True, show_progress=False)
    _, started, *shown = events_of(max((run.path / "events").iterdir()))
    assert (started.step, started.session_log.status) == (5, SessionLog.START)
    assert {event.step for event in shown} == {5, 6}
