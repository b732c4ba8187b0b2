"""The archive beside a slow loop over the records it was made of."""

from __future__ import annotations

import json
import mmap
import os
import pickle
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecgray.databases.record import BEATS, RHYTHMS
from ecgray.errors import EcgrayError
from ecgray.shards import annotations, maps, signals
from ecgray.shards.archive import open_archive
from ecgray.shards.strips import Strip, draw_strip
from ecgray.shards.writer import write_shard_set


@pytest.fixture(scope="module")
def records(random_records):
    extra = np.random.default_rng(9)
    return [
        *random_records.random_records(),
        random_records.random_record(extra, record="p900_s00", patient="p900", annotated=False),
        random_records.random_record(extra, record="p901_s00", patient="p901", samples=40),
    ]


@pytest.fixture(scope="module", params=["small", "as if there were thousands of shards"])
def archive(records, tmp_path_factory, request):
    path = tmp_path_factory.mktemp("archive") / "set"
    manifest = write_shard_set(records, path, shard_mb=0.3)
    assert len(manifest.shards) > 3
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "small":  # few read at once, fewer kept, coarse tables
            patch.setattr(maps, "_SHARDS_AT_ONCE", 2)
            patch.setattr(maps, "_HELD", 1)
            patch.setattr(annotations, "_MOST_STRETCHES", 64)
        yield open_archive([path], verify="hashes")


def windows(records, n, seed, longest=4000):
    """Random windows, some empty, some that end or begin on a beat or on the record's edge, some past its end."""
    draw = np.random.default_rng(seed)
    record = draw.integers(0, len(records), n)
    start, end = np.empty(n, np.int64), np.empty(n, np.int64)
    for i, r in enumerate(record):
        samples = records[r].signal.shape[1]
        marks = [
            0,
            samples,
            *records[r].beats[:50],
            *(records[r].beats[-50:] + 1),
            *records[r].rhythms[:30, :2].ravel(),
        ]
        start[i] = draw.choice(marks) if draw.random() < 0.3 else draw.integers(0, samples)
        end[i] = draw.choice(marks) if draw.random() < 0.3 else start[i] + draw.integers(1, longest)
        if end[i] <= start[i]:
            end[i] = start[i] + 1
    return record, start, end


def test_columns_are_the_records(archive, records):
    assert archive.record_id.tolist() == [record.id for record in records]
    assert [archive.patient_names[code] for code in archive.patient] == [record.patient for record in records]
    assert archive.labels == [record.labels for record in records]
    assert archive.attributes == [record.attributes for record in records]
    assert archive.annotated.tolist() == [record.annotated for record in records]
    assert archive.samples.tolist() == [record.signal.shape[1] for record in records]
    assert set(archive.database) == {"random"}
    for i, record in enumerate(records):
        np.testing.assert_array_equal(archive.beats(i)[0], record.beats)
        np.testing.assert_array_equal(archive.beats(i)[1], record.beat_classes)
        np.testing.assert_array_equal(archive.rhythms(i), record.rhythms)
        np.testing.assert_array_equal(archive.beat_totals[i], np.bincount(record.beat_classes, minlength=len(BEATS)))
        seconds = [sum(e - s for s, e, c in record.rhythms.tolist() if c == code) for code in range(len(RHYTHMS))]
        assert archive.rhythm_samples[i].tolist() == seconds
        mv = (record.signal - record.baseline[:, None]) / record.gain[:, None]
        np.testing.assert_allclose(archive.signal_mv(i), mv, rtol=1e-6, atol=1e-7)


def test_mean_and_deviation_are_those_of_all_samples(archive, records):
    mv = np.concatenate([((r.signal - r.baseline[:, None]) / r.gain[:, None]).ravel() for r in records])
    assert archive.mean_mv == pytest.approx(mv.mean(), rel=1e-12)
    assert archive.sd_mv == pytest.approx(mv.std(), rel=1e-12)


@pytest.mark.parametrize(
    "leads", [("MLII",), ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6", "III", "aVR", "aVL", "aVF")]
)
def test_cut_gives_the_frames_asked_for_in_their_order(random_records, tmp_path, leads, monkeypatch):
    records = random_records.random_records(1, patients=6, samples=3000, leads=leads)
    write_shard_set(records, tmp_path / "set", shard_mb=0.01)
    archive = open_archive([tmp_path / "set"])
    draw = np.random.default_rng(2)
    record = draw.integers(0, len(records), 300)
    start = draw.integers(0, archive.samples[record] - 256 + 1)
    expected = np.stack([records[r].signal[:, s : s + 256] for r, s in zip(record, start, strict=True)])
    np.testing.assert_array_equal(archive.cut(record, start, 256), expected)
    out = np.empty_like(expected)
    assert archive.cut(record, start, 256, out) is out
    np.testing.assert_array_equal(out, expected)
    monkeypatch.setattr(maps, "_SHARDS_AT_ONCE", 2)
    np.testing.assert_array_equal(open_archive([tmp_path / "set"]).cut(record, start, 256), expected)
    assert archive.cut([], [], 256).shape == (0, len(leads), 256)
    last = archive.samples - 256
    np.testing.assert_array_equal(
        archive.cut(np.arange(len(records)), last, 256)[:, :, -1], [r.signal[:, -1] for r in records]
    )


FEW_FILES = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
from ecgray.shards.archive import open_archive
archive = open_archive(sys.argv[1])
every, start, end = range(len(archive)), [0] * len(archive), archive.samples
answers = [archive.cut(every, start, 50)[:, 0], archive.beat_counts(every, start, end)]
answers.append(archive.rhythm_durations(every, start, end))
print(json.dumps([answer.tolist() for answer in answers]))
"""


def test_more_shards_than_files_may_be_open(random_records, tmp_path):
    records = random_records.random_records(7, patients=50, samples=2000)
    assert len(write_shard_set(records, tmp_path / "set", shard_mb=0.001).shards) == 50
    child = subprocess.run([sys.executable, "-c", FEW_FILES, tmp_path / "set"], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    archive = open_archive(tmp_path / "set")
    frames = [record.signal[0, :50].tolist() for record in records]
    assert json.loads(child.stdout) == [frames, archive.beat_totals.tolist(), archive.rhythm_samples.tolist()]


@pytest.mark.parametrize("leads", [("MLII",), ("I", "II", "V1")])
def test_of_signals_larger_than_memory_only_the_frames_are_read(random_records, tmp_path, leads, monkeypatch):
    """Counted by the kernel, on the file system of the tests: the pages of the frames, not those around them."""
    signal = np.random.default_rng(3).integers(-500, 500, (len(leads), 6_000_000)).astype(np.int16)
    record = random_records.random_record(np.random.default_rng(4), record="r", patient="p", leads=leads)
    none = {"beats": record.beats[:0], "beat_classes": record.beat_classes[:0], "rhythms": record.rhythms[:0]}
    write_shard_set([replace(record, signal=signal, **none)], tmp_path / "set")
    start = np.random.default_rng(5).integers(0, signal.shape[1] - 256, 50)
    expected = np.stack([signal[:, s : s + 256] for s in start])
    read = {}
    for memory in (1 << 40, 1000):
        monkeypatch.setattr(signals, "memory_limit", lambda memory=memory: memory)
        archive = open_archive([tmp_path / "set"])
        with (tmp_path / "set" / "shard-00000" / "signal.npy").open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
        np.testing.assert_array_equal(archive.cut(np.zeros(50, int), start, 256), expected)
        read[memory] = 512 * (resource.getrusage(resource.RUSAGE_SELF).ru_inblock - before)
        del archive  # mapped pages stay in memory
    if read[1 << 40] < signal.nbytes / 2:
        pytest.skip("what was read was in memory all the same, or nobody counts it")
    header_and_frames = 16 + 50 * len(leads) * 2
    assert 0 < read[1000] <= header_and_frames * mmap.PAGESIZE


@pytest.mark.parametrize("start", [-1, 41])
def test_a_frame_that_leaves_its_record_is_an_error(archive, records, start):
    with pytest.raises(IndexError):
        archive.cut([len(records) - 1], [start], 10)


@pytest.mark.parametrize("skip_first", [False, True])
def test_beat_counts_beside_a_loop(archive, records, skip_first):
    record, start, end = windows(records, 800, 3)
    found = archive.beat_counts(record, start, end, skip_first=skip_first)
    for i, (r, s, e) in enumerate(zip(record, start, end, strict=True)):
        inside = [c for p, c in zip(records[r].beats, records[r].beat_classes, strict=True) if s <= p < e]
        expected = [inside[int(skip_first) :].count(code) for code in range(len(BEATS))]
        assert found[i].tolist() == expected


def test_beat_extent_beside_a_loop(archive, records):
    record, start, end = windows(records, 800, 4)
    found = np.stack(archive.beat_extent(record, start, end), axis=1)
    for i, (r, s, e) in enumerate(zip(record, start, end, strict=True)):
        inside = [int(p) for p in records[r].beats if s <= p < e]
        padded = [*inside, -1, -1]
        assert found[i].tolist() == [len(inside), padded[0], padded[1], inside[-1] if inside else -1]


def test_rhythm_durations_beside_a_loop(archive, records):
    record, start, end = windows(records, 800, 5)
    found = archive.rhythm_durations(record, start, end)
    for i, (r, s, e) in enumerate(zip(record, start, end, strict=True)):
        expected = [0] * len(RHYTHMS)
        for begin, finish, code in records[r].rhythms.tolist():
            expected[code] += max(0, min(finish, e) - max(begin, s))
        assert found[i].tolist() == expected


def test_rhythm_durations_by_beat_beside_a_walk_over_the_samples(archive, records):
    """Each sample belongs to the first beat after it, or to the record's last beat if that lies in the window."""
    record, start, end = windows(records, 250, 6, longest=1500)
    found = archive.rhythm_durations_by_beat(record, start, end)
    for i, (r, s, e) in enumerate(zip(record, start, end, strict=True)):
        beats, zones = records[r].beats.tolist(), records[r].rhythms.tolist()
        e = min(e, records[r].signal.shape[1])
        expected = [0] * len(RHYTHMS)
        rhythm = [next((code for begin, finish, code in zones if begin <= p < finish), 0) for p in beats]
        for sample in range(s, e):
            after = next((k for k, p in enumerate(beats) if p > sample), None)
            if after is None:
                after = len(beats) - 1 if beats and beats[-1] > s else None
            expected[0 if after is None else rhythm[after]] += 1
        assert found[i].tolist() == expected


def test_windows_past_a_record_count_nothing_of_the_next(archive, records):
    """Windows that reach past their record's end count nothing of the record behind it on disk."""
    n = len(records)
    samples = archive.samples
    beats = archive.beat_counts(np.arange(n), np.zeros(n, np.int64), samples + 10_000)
    np.testing.assert_array_equal(beats, archive.beat_totals)
    rhythms = archive.rhythm_durations(np.arange(n), np.zeros(n, np.int64) - 5, samples + 10_000)
    np.testing.assert_array_equal(rhythms, archive.rhythm_samples)


def test_several_sets_are_one_table(random_records, tmp_path):
    a = random_records.random_records(1, patients=3)
    b = random_records.random_records(2, patients=2)
    draw = np.random.default_rng(0)
    c = [random_records.random_record(draw, record="x", patient="p000", database="other")]
    for name, records in (("a", a), ("b", b), ("c", c)):
        write_shard_set(records, tmp_path / name)
    archive = open_archive([tmp_path / name for name in "abc"])
    everyone = [*a, *b, *c]
    assert archive.record_id.tolist() == [record.id for record in everyone]
    assert archive.patient_names == ["p000", "p001", "p002", "p000"]  # p000 of the other database is someone else
    assert archive.patient[[0, len(a), -1]].tolist() == [0, 0, 3]
    frames = archive.cut(np.arange(len(everyone)), np.full(len(everyone), 7), 100)
    np.testing.assert_array_equal(frames, [record.signal[:, 7:107] for record in everyone])
    assert archive.provenance([len(everyone) - 1], [7]) == [("other", "p000", "x", 7)]
    mv = np.concatenate([((r.signal - r.baseline[:, None]) / r.gain[:, None]).ravel() for r in everyone])
    assert (archive.mean_mv, archive.sd_mv) == (pytest.approx(mv.mean(), rel=1e-10), pytest.approx(mv.std(), rel=1e-10))


def test_a_pickle_is_small_and_opens_once_per_process(archive):
    sent = pickle.dumps(archive)
    assert len(sent) < 1000
    assert pickle.loads(sent) is pickle.loads(sent)
    assert len(pickle.loads(sent)) == len(archive)


def test_leads_are_those_of_the_first_set_in_its_order(random_records, tmp_path):
    given = [
        random_records.random_records(seed, patients=3, records=1, samples=900, leads=leads)
        for seed, leads in enumerate((("I", "II", "V1"), ("v1", "I", "II"), ("V5", "I", "II"), ("V1", "I", "I")))
    ]
    paths = [tmp_path / name for name in "abcd"]
    for records, path in zip(given, paths, strict=True):
        write_shard_set(records, path)
    archive = open_archive(paths[:2])
    second = [1, 2, 0]
    for found in (archive, pickle.loads(pickle.dumps(archive))):
        assert found.leads == ("I", "II", "V1")
        frames = found.cut(np.arange(6), np.full(6, 7), 100)
        np.testing.assert_array_equal(frames[:3], [r.signal[:, 7:107] for r in given[0]])
        np.testing.assert_array_equal(frames[3:], [r.signal[second, 7:107] for r in given[1]])
        for number, r in enumerate(given[1], start=3):
            mv = (r.signal - r.baseline[:, None]) / r.gain[:, None]
            np.testing.assert_allclose(found.signal_mv(number), mv[second], rtol=1e-6)
            np.testing.assert_array_equal(found.gain[number], r.gain[second])
    other = archive.in_order(("II", "V1", "I"))
    for found in (other, pickle.loads(pickle.dumps(other))):
        np.testing.assert_array_equal(found.cut(np.arange(6), np.full(6, 7), 100), frames[:, second])
    assert '">I</text>' in draw_strip(archive, Strip(title="x", record=4, start=0)).split("<polyline")[1]
    for path in paths[2:]:
        with pytest.raises(EcgrayError, match=r"must be 'I, II, V1' \(in any order\), got 'V., I, II?'; ingest"):
            open_archive([paths[0], path])


def test_mixed_sets_are_refused(random_records, tmp_path):
    draw = np.random.default_rng(0)
    for name, fs, leads in (("a", 250.0, ("I",)), ("b", 300.0, ("I",)), ("c", 250.0, ("I", "II"))):
        record = random_records.random_record(draw, record=name, patient=name, fs=fs, leads=leads)
        write_shard_set([record], tmp_path / name)
    with pytest.raises(EcgrayError, match=r"one sampling rate, got 250 Hz in .* and 300 Hz"):
        open_archive([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(EcgrayError, match=r"leads of '.*/c' must be 'I' .*, got 'I, II'"):
        open_archive([tmp_path / "a", tmp_path / "c"])
    with pytest.raises(EcgrayError, match="named once"):
        open_archive([tmp_path / "a", tmp_path / "a"])
    with pytest.raises(EcgrayError, match="must be named, got none"):
        open_archive([])


def test_small_archive_has_every_class(small_archive: Path):
    archive = open_archive([small_archive])
    assert archive.fs == 250 and len(archive) == 36 and len(archive.patient_names) == 12
    assert (archive.beat_totals.sum(0) > 0).all() and (archive.rhythm_samples.sum(0) > 0).all()
