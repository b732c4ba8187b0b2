"""A short run of the fuzzer, and headers and annotation files made from nothing (the long run: run.py)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecgray.databases import Folder, RecordRefused, Reference
from ecgray.databases.kinds import kind_of, listed_kinds
from ecgray.databases.patients import stated
from ecgray.databases.vocabulary import misunderstood, rhythm_name
from ecgray.databases.wfdb_annotations import read_annotations
from ecgray.shards.prepare import Target, prepare

FUZZER = Path(__file__).with_name("run.py")


def test_every_mutated_input_is_read_or_refused_for_one_reason(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, str(FUZZER), "--inputs", "2000", "--seed", "1", "--json", str(tmp_path / "summary.json")],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert said.returncode == 0, said.stdout[-4000:] + said.stderr[-2000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["inputs"] > 1900 and not summary["findings"]
    outcomes = [sum(row.get(name, 0) for row in summary["outcomes"].values()) for name in ("read", "refused")]
    assert min(outcomes) > 300  # neither harmless nor hopeless


numbers = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.sampled_from(["", "0", "-0", "1", "250", "1e999", "0x10", "1_0", "\u0663"]),
)
forms = st.one_of(
    st.sampled_from(["16", "212", "16x2", "16:1", "16+24", "80", "516", "310", "524", "0", "16+"]),
    st.builds("{}x{}:{}+{}".format, st.sampled_from(["16", "212", "8"]), numbers, numbers, numbers),
)
files = st.sampled_from(["r.dat", "../outside.dat", "/etc/passwd", "~", "a/b", "", "linked.dat", "r.hea", "x\0y", "."])
gains = st.one_of(numbers, st.builds("{}({})/{}".format, numbers, numbers, st.sampled_from(["mV", "uV", "V", "mmHg"])))
signals = st.builds(" ".join, st.tuples(files, forms, gains, numbers, numbers, numbers, numbers, numbers, st.text()))
firsts = st.builds(" ".join, st.tuples(st.sampled_from(["r", "r/2", ""]), numbers, numbers, numbers))
headers = st.builds(
    lambda first, lines: "\n".join([first, *lines]), st.one_of(firsts, st.just("r 1 250 500")), st.lists(signals)
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=headers)
def test_any_header_is_read_or_refused(tmp_path: Path, header: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    (tmp_path / "outside.dat").write_bytes(np.arange(1000, dtype="<i2").tobytes())
    if not (folder / "linked.dat").is_symlink():
        (folder / "linked.dat").symlink_to(tmp_path / "outside.dat")
    (folder / "r.dat").write_bytes(np.arange(500, dtype="<i2").tobytes())
    (folder / "r.hea").write_text(header, encoding="utf-8", errors="replace", newline="")
    began = time.process_time()  # of the processor: a busy machine is no hang
    try:
        record = Folder().read(Reference(record="r", patient="r", path=folder / "r"))
    except RecordRefused as reason:
        assert time.process_time() - began < 5
        assert str(reason) and "\n" not in str(reason) and len(str(reason)) < 600
        return
    prepare(record, Target(fs=record.fs, leads=record.leads))
    assert time.process_time() - began < 5
    assert record.signal.size <= 1000


pieces = (
    *("patient", "Subject", "participant", "id", "_id", "no.", "#", ":", "=", " ", "  ", ",", "<", ">", "(", ")", "7"),
    *("S-01", "1955-03-12", "65yo", "Age", "sex: M", "taken from the same tape as record r", "\x00", "\u0663"),
)
comments = st.one_of(st.text(max_size=400), st.lists(st.sampled_from(pieces), max_size=60).map("".join))


@settings(max_examples=500)
@given(lines=st.lists(comments, max_size=5))
def test_any_comments_name_patients_that_stand_in_them(lines: list[str]) -> None:
    began = time.process_time()
    found = stated(lines)
    assert time.process_time() - began < 5
    assert len(set(found)) == len(found)
    for name in found:
        assert 1 <= len(name) <= 64 and name.isascii() and any(name in line for line in lines)


@given(text=st.text(max_size=300))
def test_any_rhythm_text_has_one_name_and_is_told_in_one_line(text: str) -> None:
    assert rhythm_name(rhythm_name(text)) == rhythm_name(text)
    told = misunderstood({f"+ {text}": 3, f"type {text}": 1})
    assert len(told) <= 2 and all("\n" not in line and len(line) < 300 for line in told)


heads = st.one_of(
    st.binary(max_size=5000),
    st.builds(
        lambda at, magic, tail: bytes(at) + magic + tail,
        st.sampled_from([0, 16, 128, 257]),
        st.sampled_from([b"0       ", b"ISHNE1.0", b"DICM", b"SCPECG", b"PK\3\4", b"ustar", b"<?xml", b"\xff\xfe<\0"]),
        st.binary(max_size=600),
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=heads, name=st.sampled_from(["a", "a.edf", "a.xml", "a.ecg", "a.csv", "a.gz"]))
def test_any_file_is_of_one_kind_or_none(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    kind = kind_of(tmp_path / name)
    assert kind is None or listed_kinds([(kind, 1)]).startswith("1 ")


words = st.one_of(
    st.integers(0, 65535),
    st.builds(lambda kind, step: kind << 10 | step, st.sampled_from([0, 1, 22, 28, 59, 60, 63]), st.integers(0, 1023)),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(words, max_size=60), end=st.sampled_from([b"\0\0", b"", b"\0"]))
def test_any_annotation_file_is_read_or_refused(tmp_path: Path, content: list[int], end: bytes) -> None:
    file = tmp_path / "r.atr"
    file.write_bytes(np.array(content, "<u2").tobytes() + end)
    began = time.process_time()
    try:
        found = read_annotations(file)
    except RecordRefused as reason:
        assert time.process_time() - began < 5
        assert "\n" not in str(reason)
        return
    assert time.process_time() - began < 5
    assert len(found.sample) == len(found.type) == len(found.aux) <= len(content)
    assert sum(found.counts().values()) >= len(found.sample)
