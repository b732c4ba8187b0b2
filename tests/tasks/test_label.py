"""Labels of frames that a user names, and the picture of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecgray.databases.record import Record
from ecgray.errors import EcgrayError
from ecgray.shards.archive import Archive, open_archive
from ecgray.shards.writer import write_shard_set
from ecgray.tasks import TASKS, Beat, FuturePrediction
from ecgray.tasks.label import label_frames, plot_frames, read_frames

Make = Callable[..., Record]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, make_record: Make) -> Archive:
    beats = list(range(60, 4000, 200))
    kinds = ["pvc" if place == 2 else "normal" for place in range(len(beats))]
    records = [
        make_record(beats, kinds, [(0, 1500, "normal"), (1500, 3000, "afib")], name="100"),
        make_record(name="007"),  # a name that must not become a number
    ]
    out = tmp_path_factory.mktemp("label") / "shards"
    write_shard_set(records, out)
    return open_archive([out])


def table(*rows: tuple[str, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["record", "start"])


def test_labels_in_the_order_of_the_frames(archive: Archive) -> None:
    wanted = table(("100", 3000), ("007", 0), ("100", 200), ("100", 1000), ("100", 3488))
    expected = {
        "beat": ["normal", "undefined", "pvc", "normal", "normal"],
        "rhythm": ["undefined", "undefined", "normal", "afib", "undefined"],
        "heart_rate": ["normal", "noise", "normal", "normal", "normal"],
    }
    for name, labels in expected.items():
        got = label_frames(archive, TASKS[name](), 512, wanted)
        assert list(got.columns) == ["record", "start", "label"]
        assert got["record"].tolist() == wanted["record"].tolist() and got["start"].tolist() == wanted["start"].tolist()
        assert got["label"].tolist() == labels


def test_a_dropped_frame_has_no_label(archive: Archive) -> None:
    got = label_frames(archive, Beat(undefined="drop"), 512, table(("007", 0), ("100", 0)))
    assert got["label"].tolist() == ["", "pvc"]


def test_frames_through_a_csv_file(archive: Archive, tmp_path: Path) -> None:
    file = tmp_path / "frames.csv"
    file.write_bytes(b"record, start,note\r\n007, 12,x\r\n100,0,\r\n")
    frames = read_frames(file)
    assert frames["record"].tolist() == ["007", "100"] and frames["start"].tolist() == [12, 0]
    assert frames["start"].dtype == np.int64
    assert label_frames(archive, Beat(), 512, frames)["label"].tolist() == ["undefined", "pvc"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "readable CSV"),
        (b"", "readable CSV"),
        (b"record,begin\n100,0\n", "columns record and start"),
        (b"record,start\n", "at least one row"),
        (b"record,start\n100,0\n100,1.5\n", "'1.5' in line 3"),
        (b"record,start\n100,\n", "'' in line 2"),
        (b"\xff\xfe\x00\x01", "readable CSV"),
    ],
)
def test_unreadable_frames(content: bytes | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "frames.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EcgrayError, match=words) as caught:
        read_frames(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("frames", "size", "words"),
    [
        (table(("100", 0), ("101", 0)), 512, "'101'"),
        (table(("100", -1)), 512, "from -1"),
        (table(("100", 3488), ("100", 3489)), 512, "from 3489 of '100', which has 4000"),
        (table(("100", 0)), 4001, "which has 4000"),
        (table(("100", 0)), 0, "at least 1 sample"),
    ],
)
def test_frames_that_do_not_exist(archive: Archive, frames: pd.DataFrame, size: int, words: str) -> None:
    with pytest.raises(EcgrayError, match=words) as caught:
        label_frames(archive, Beat(), size, frames)
    assert "\n" not in str(caught.value)


def test_a_name_that_two_records_have(make_record: Make, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard_set([make_record([9], ["normal"], name="100")], tmp_path / name)
    with pytest.raises(EcgrayError, match="unique"):
        label_frames(open_archive([tmp_path / "a", tmp_path / "b"]), Beat(), 512, table(("100", 0)))


def test_future_prediction_has_no_label(archive: Archive) -> None:
    with pytest.raises(EcgrayError, match="must have classes"):
        label_frames(archive, FuturePrediction(), 512, table(("100", 0)))


def test_picture(archive: Archive, tmp_path: Path) -> None:
    file = tmp_path / "frames.png"
    for name, starts in (("beat", range(0, 2100, 100)), ("rhythm", (0, 1300)), ("heart_rate", (0, 3488))):
        labelled = label_frames(archive, TASKS[name](), 512, table(*(("100", start) for start in starts), ("007", 0)))
        plot_frames(archive, TASKS[name](), 512, labelled, file)
        content = file.read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 20_000
    with pytest.raises(EcgrayError, match="writable"):
        plot_frames(archive, Beat(), 512, labelled.head(1), tmp_path / "missing" / "frames.png")
