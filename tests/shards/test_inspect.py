"""Inspect: the numbers and the page."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from ecgray.databases.record import BEATS, RHYTHMS
from ecgray.errors import EcgrayError
from ecgray.shards.inspect import summary
from ecgray.shards.inspect_page import write_page
from ecgray.shards.writer import write_shard_set


@pytest.fixture(scope="module")
def two(random_records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    draw = np.random.default_rng(3)
    first = random_records.random_records(5, patients=3)
    other = random_records.random_record(draw, record="<b>&", patient="x", fs=300.0)
    second = [
        random_records.random_record(draw, record="y", patient="p000", database="other", leads=("V5",)),
        random_records.random_record(draw, record="z", patient="z", database="other", annotated=False),
    ]
    write_shard_set([*first, other], folder / "a")
    write_shard_set(second, folder / "b")
    return [folder / "a", folder / "b"], [*first, *second]


def test_summary_counts_the_records(two):
    paths, records = two
    found = json.loads(json.dumps(summary(paths)))
    keys = "records patients hours fs leads beats rhythm_seconds labels mean_mv sd_mv far_off gaps notes refused"
    assert list(found) == keys.split()
    assert (found["records"], found["patients"], found["fs"]) == (11, 5, 250)
    assert found["hours"] == pytest.approx(sum(r.signal.shape[1] for r in records) / 250 / 3600)
    classes = np.concatenate([record.beat_classes for record in records])
    assert found["beats"] == {name: int((classes == code).sum()) for code, name in enumerate(BEATS)}
    zones = np.concatenate([record.rhythms for record in records])
    for code, name in enumerate(RHYTHMS):
        mine = zones[zones[:, 2] == code]
        assert found["rhythm_seconds"][name] == pytest.approx((mine[:, 1] - mine[:, 0]).sum() / 250)
    assert sum(found["labels"].values()) == 11
    reason = "sampled at 300 Hz, the set at 250 Hz (resample with --fs)"
    assert found["refused"] == [{"record": "<b>&", "reason": reason}]


def test_page_is_one_file_with_a_strip_for_every_class(two, tmp_path):
    paths, _ = two
    page = write_page(paths, tmp_path / "new" / "page.html").read_text()
    assert not re.search(r"""(src|href)=|@import|url\(""", page)
    assert "&lt;b&gt;&amp;" in page and "<b>&" not in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    titles = re.findall(r"<figcaption><b>(.*?)</b>", page)
    assert titles[: len(BEATS) + len(RHYTHMS)] == [*(f"beat: {b}" for b in BEATS), *(f"rhythm: {r}" for r in RHYTHMS)]
    assert len(drawings) == len(titles)
    for title, drawing in zip(titles, drawings, strict=True):
        ElementTree.fromstring(drawing)
        assert "<polyline" in drawing and ('class="mark"' in drawing or title.startswith("label"))


def test_page_of_records_without_annotations_and_shorter_than_a_strip(random_records, tmp_path):
    draw = np.random.default_rng(0)
    leads = ("I", "II", "V1")
    plain = random_records.random_record(draw, record="a", patient="a", samples=300, leads=leads, annotated=False)
    write_shard_set([type(plain)(**{**vars(plain), "labels": ()})], tmp_path / "set")
    page = write_page([tmp_path / "set"], tmp_path / "page.html").read_text()
    assert page.count("<polyline") == 3 and "a record" in page


def test_page_that_cannot_be_written(two, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EcgrayError, match="can be written"):
        write_page(two[0], tmp_path / "file" / "page.html")
