"""Records far from the others in amplitude: found by any lead, not told of sets that do not know."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecgray.shards.amplitudes import FAR, far_off
from ecgray.shards.archive import open_archive
from ecgray.shards.inspect import summary
from ecgray.shards.inspect_page import write_page
from ecgray.shards.manifest import file_sha256
from ecgray.shards.writer import write_shard_set


def test_far_in_either_direction_flat_and_unknown():
    sd_mv = np.array([[0.2], [0.2], [0.2], [0.2 * FAR * 1.01], [0.2 / FAR / 1.1], [0.2 * FAR], [0.0], [np.nan]])
    found = far_off(sd_mv, ["II"], str)
    assert [each.record for each in found] == ["6", "4", "3"]
    assert (found[2].lead, found[2].sd_mv, found[2].median_mv) == ("II", sd_mv[3, 0], 0.2)
    assert far_off(np.full((3, 1), np.nan), ["II"], str) == []
    assert far_off(np.zeros((0, 1)), ["II"], str) == []
    assert [each.record for each in far_off(np.zeros((2, 1)), ["II"], str)] == ["0", "1"]


def test_each_lead_is_compared_with_itself_and_a_record_named_once():
    sd_mv = np.array([[0.02, 1.0], [0.02, 1.0], [0.02, 1.0], [1.0, 0.001], [0.02, 1.0]])
    (found,) = far_off(sd_mv, ["V1", "II"], str)
    assert (found.record, found.lead) == ("3", "II")


def two_leads(random_records, number, gains, leads):
    draw = np.random.default_rng(number)
    record = random_records.random_record(draw, record=f"r{number}", patient=f"p{number}", leads=leads)
    return replace(record, gain=np.array(gains))


def test_the_standard_deviation_of_each_lead_is_kept(random_records, tmp_path):
    first = [two_leads(random_records, n, [200.0, 300.0], ("I", "II")) for n in range(3)]
    other = [two_leads(random_records, n, [300.0, 0.2], ("II", "I")) for n in range(3, 5)]
    write_shard_set(first, tmp_path / "a")
    write_shard_set(other, tmp_path / "b")
    archive = open_archive([tmp_path / "a", tmp_path / "b"])
    expected = [record.signal.std(axis=1) / record.gain for record in first]
    expected += [(record.signal.std(axis=1) / record.gain)[::-1] for record in other]
    assert archive.lead_sd_mv() == pytest.approx(np.array(expected))
    found = summary([tmp_path / "a", tmp_path / "b"])["far_off"]
    assert {(each["record"], each["lead"]) for each in found} == {("r3", "I"), ("r4", "I")}


def test_at_most_ten_on_the_page(random_records, tmp_path):
    records = [two_leads(random_records, n, [200.0, 300.0], ("I", "II")) for n in range(25)]
    records += [two_leads(random_records, n, [0.2, 300.0], ("I", "II")) for n in range(25, 37)]
    write_shard_set(records, tmp_path / "set")
    page = write_page([tmp_path / "set"], tmp_path / "page.html").read_text()
    told = page[page.index("<h2>Records far") : page.index("<h2>Refused")]
    assert told.count("<td>r") == 10 and "2 more" in told


def test_a_set_that_does_not_know_is_read_and_says_so(random_records, tmp_path):
    write_shard_set(random_records.random_records(patients=2), tmp_path / "set")
    file, manifest = tmp_path / "set" / "records.parquet", tmp_path / "set" / "manifest.json"
    pq.write_table(pq.read_table(file).drop_columns("lead_sd_mv"), file)
    values = json.loads(manifest.read_text())
    values["files"]["records.parquet"] = {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
    manifest.write_text(json.dumps(values))
    assert np.isnan(open_archive([tmp_path / "set"]).lead_sd_mv()).all()
    assert summary([tmp_path / "set"])["far_off"] is None
    assert "Not known" in write_page([tmp_path / "set"], tmp_path / "page.html").read_text()
