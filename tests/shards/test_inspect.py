"""Inspect: the numbers and the page."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from ecgray.cli import main
from ecgray.databases.record import BEATS, RHYTHMS
from ecgray.errors import EcgrayError
from ecgray.shards.durations import in_hours
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
    keys = "records patients hours fs leads beats rhythm_seconds labels label_versions mean_mv sd_mv far_off gaps"
    keys += " notes refused"
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


def test_hours_and_the_version_of_labels(random_records, tmp_path, capsys):
    """An hour and a half of normal rhythm, 90 s of fibrillation, of a database whose labels have versions."""
    draw = np.random.default_rng(0)
    long = random_records.random_record(draw, record="long", patient="a", samples=5_490 * 250, annotated=True)
    zones = np.array([[0, 5_400 * 250, RHYTHMS.index("normal")], [5_400 * 250, 5_490 * 250, RHYTHMS.index("afib")]])
    record = type(long)(**{**vars(long), "rhythms": zones})
    for version in ("v3", "v2"):
        settings = {"database": {"name": "cinc2017", "labels": version}}
        write_shard_set([record], tmp_path / version, settings=settings)
    write_shard_set([record], tmp_path / "none", settings={"database": {"name": "folder", "lead": []}})
    assert main(["inspect", str(tmp_path / "v3"), "--html", str(tmp_path / "page.html")]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    name = record.database
    assert said["hours"] == "1.5" and said["label_versions"] == f"v3 of {name}"
    assert said["rhythms"] == "undefined 0 h, noise 0 h, normal 1.5 h, afib 90.0 s, aflut 0 h, other 0 h"
    page = (tmp_path / "page.html").read_text()
    assert f"Version v3 of {name}." in page and "<td>1.5 h</td>" in page and "<td>90.0 s</td>" in page
    assert summary([tmp_path / "v3", tmp_path / "v2"])["label_versions"] == {name: "v2, v3"}
    assert summary([tmp_path / "none"])["label_versions"] == {}


def test_durations():
    shown = {0: "0 h", 59: "59.0 s", 179.9: "179.9 s", 180: "0.1 h", 3600: "1.0 h", 4_336_200: "1,204.5 h"}
    assert {seconds: in_hours(seconds) for seconds in shown} == shown


def test_page_takes_every_colour_from_its_scheme(two, tmp_path):
    """Light or dark: nothing in a drawing has a colour of its own, and each that it names is there twice."""
    page = write_page(two[0], tmp_path / "page.html").read_text()
    style, body = page.split("</style>")
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    assert 'name="color-scheme" content="light dark"' in page
    assert not re.search(r"#[0-9a-f]{3,6}\b", body.replace("&#", "")) and "white" not in body
    for name in set(re.findall(r"var\((--[a-z-]+)\)", page)):
        assert f"{name}: #" in light and f"{name}: #" in dark, name
