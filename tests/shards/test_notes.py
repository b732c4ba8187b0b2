"""What is remarked of records: kept with the set, and said once per kind."""

from __future__ import annotations

from dataclasses import replace

from ecgray.databases import notes
from ecgray.shards.archive import open_archive
from ecgray.shards.inspect import summary
from ecgray.shards.inspect_page import write_page
from ecgray.shards.ledger import notes_of
from ecgray.shards.writer import write_shard_set


def test_one_line_per_kind_with_the_first_record_of_it():
    told = [("a", {"flat": "lead II, 81%"}), ("b", {}), ("c", {"flat": "", "no_unit": "RESP, ECG", "of 2030": "?"})]
    assert notes.lines(told, 1200) == [
        "1 of 1,200 records do not say the unit of a signal, and WFDB then means mV: c (RESP, ECG)",
        "2 of 1,200 records are flat for most of their length: a (lead II, 81%)",
    ]
    assert notes.lines([("a", {"flat": ""})], 1) == ["1 of 1 records are flat for most of their length: a"]
    assert notes.lines([], 3) == []


def test_notes_are_kept_among_the_attributes(random_records, tmp_path):
    first, second, third = random_records.random_records(1, patients=1)
    records = [replace(first, notes={"no_unit": "<ECG>"}), second, replace(third, attributes={"notes": "own words"})]
    write_shard_set(records, tmp_path / "set")
    kept = [notes_of(own) for own in open_archive([tmp_path / "set"]).attributes]
    assert kept == [{"no_unit": "<ECG>"}, {}, {}]
    (line,) = summary([tmp_path / "set"])["notes"]
    assert line == f"1 of 3 records {notes.KINDS['no_unit']}: {first.id} (<ECG>)"
    assert "(&lt;ECG&gt;)" in write_page([tmp_path / "set"], tmp_path / "page.html").read_text()
