"""The vectorised rules against the slow loops: on cases with a known answer, on random and on real annotations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgray.databases import DATABASES
from ecgray.databases.record import BEATS, RHYTHMS, Record
from ecgray.shards.archive import Archive, open_archive
from ecgray.shards.writer import write_shard_set
from ecgray.tasks import IGNORED, TASKS, Task

Rule = Callable[[Record, int, int], str]
Rules = dict[tuple[str, str], Rule]
Make = Callable[..., Record]
EVERY = [(task, rule) for task in ("beat", "rhythm", "heart_rate") for rule in ("paper", "code")]


class InMemory:
    """The queries of ``Annotations`` over records in memory, one window after another."""

    def __init__(self, *records: Record) -> None:
        self.records = records
        self.fs = records[0].fs

    def _windows(self, record, start, end):
        for r, s, e in zip(record.tolist(), start.tolist(), end.tolist(), strict=True):
            yield self.records[r], s, e

    def _beats(self, record, start, end):
        for r, s, e in self._windows(record, start, end):
            yield [(b, k) for b, k in zip(r.beats.tolist(), r.beat_classes.tolist(), strict=True) if s <= b < e]

    def beat_counts(self, record, start, end, *, skip_first=False):
        found = [beats[1 if skip_first else 0 :] for beats in self._beats(record, start, end)]
        return np.array([[sum(k == kind for _, k in beats) for kind in range(len(BEATS))] for beats in found], np.int64)

    def beat_extent(self, record, start, end):
        rows = []
        for beats in self._beats(record, start, end):
            at = [b for b, _ in beats]
            rows.append((len(at), at[0] if at else -1, at[1] if len(at) > 1 else -1, at[-1] if at else -1))
        return tuple(np.array(rows, np.int64).T)

    def rhythm_durations(self, record, start, end):
        out = np.zeros((len(record), len(RHYTHMS)), np.int64)
        for row, (r, s, e) in zip(out, self._windows(record, start, end), strict=True):
            for first, last, kind in r.rhythms.tolist():
                row[kind] += max(0, min(last, e) - max(first, s))
        return out

    def rhythm_durations_by_beat(self, record, start, end):
        out = np.zeros((len(record), len(RHYTHMS)), np.int64)
        for row, (r, s, e) in zip(out, self._windows(record, start, end), strict=True):
            at = s
            later = [b for b in r.beats.tolist() if b > s]
            for place, beat in enumerate(later):
                zone = [kind for first, last, kind in r.rhythms.tolist() if first <= beat < last]
                until = e if place == len(later) - 1 else min(beat, e)
                row[zone[0] if zone else 0] += max(0, until - at)
                at = max(at, until)
        return out


def answers(task: Task, annotations: InMemory | Archive, record: list[int], start: list[int], frame: int) -> list[str]:
    targets = task.targets(np.array(record, np.int64), np.array(start, np.int64), frame, annotations)
    assert targets.dtype == np.int64 and targets.shape == (len(start),)
    return [task.classes[target] for target in targets]


def regular(interval: int, count: int, first: int = 0) -> list[int]:
    return list(range(first, first + interval * count, interval))


# beats at, their kinds, frame start and size, answer by paper, answer by code
BEAT_CASES = [
    ([], [], "undefined", "undefined"),
    ([100], ["normal"], "normal", "undefined"),  # the only beat is the first
    ([100], ["pvc"], "pvc", "undefined"),
    ([100, 200], ["pvc", "normal"], "pvc", "normal"),
    ([100, 500], ["normal", "pvc"], "normal", "pvc"),  # at the frame's end: outside and inside
    ([0, 499], ["pac", "pvc"], "pac", "pvc"),
    ([99, 100, 200, 300, 400], ["normal", "normal", "undefined", "undefined", "undefined"], "normal", "undefined"),
    ([10, 100, 200], ["normal", "normal", "undefined"], "normal", "undefined"),  # a tie is undefined by the code
    ([10, 100, 200, 300], ["normal", "normal", "normal", "undefined"], "normal", "normal"),
    ([10, 100, 200, 300], ["normal", "pvc", "aberrated", "pac"], "pac", "pac"),
    ([10, 100, 200], ["normal", "pvc", "aberrated"], "aberrated", "aberrated"),
    ([10, 100, 200, 300], ["normal", "pvc", "pac", "pvc"], "pvc", "pvc"),
    ([10, 100], ["undefined", "undefined"], "undefined", "undefined"),
]


@pytest.mark.parametrize(("beats", "kinds", "paper", "code"), BEAT_CASES)
def test_beat_cases(make_record: Make, slow_rules: Rules, beats, kinds, paper: str, code: str) -> None:
    record = make_record(beats, kinds)
    for rule, expected in (("paper", paper), ("code", code)):
        assert slow_rules["beat", rule](record, 0, 500) == expected
        assert answers(TASKS["beat"](rule=rule), InMemory(record), [0], [0], 500) == [expected]


EACH = regular(50, 20, 25)  # beats at 25, 75, ..., 975
# beats at, zones, answer by paper, answer by code; the frame is [0, 1000)
RHYTHM_CASES = [
    (EACH, [], "undefined", "undefined"),
    ([], [(0, 1000, "normal")], "normal", "undefined"),  # no beat carries it
    (EACH, [(0, 1000, "normal")], "normal", "normal"),
    (EACH, [(0, 990, "normal"), (990, 991, "afib")], "afib", "normal"),  # one sample of it, on no beat
    (EACH, [(0, 900, "normal"), (900, 1000, "aflut")], "aflut", "aflut"),
    (EACH, [(0, 500, "afib"), (500, 1000, "aflut")], "afib", "aflut"),  # by beat, aflut reaches back to 475
    (EACH, [(0, 400, "afib"), (400, 1000, "aflut")], "aflut", "aflut"),
    (EACH, [(0, 500, "noise"), (500, 1000, "normal")], "noise", "normal"),
    (EACH, [(0, 400, "noise"), (400, 1000, "normal")], "normal", "normal"),
    (EACH, [(0, 900, "other"), (900, 1000, "normal")], "normal", "undefined"),
    (EACH, [(0, 1000, "other")], "undefined", "undefined"),
    (EACH, [(0, 100, "afib")], "afib", "undefined"),  # more undefined than AFib
    (EACH, [(0, 600, "afib")], "afib", "afib"),
    (EACH, [(0, 10, "normal")], "normal", "undefined"),
]


@pytest.mark.parametrize(("beats", "zones", "paper", "code"), RHYTHM_CASES)
def test_rhythm_cases(make_record: Make, slow_rules: Rules, beats, zones, paper: str, code: str) -> None:
    record = make_record(beats, ["normal"] * len(beats), zones)
    for rule, expected in (("paper", paper), ("code", code)):
        assert slow_rules["rhythm", rule](record, 0, 1000) == expected
        assert answers(TASKS["rhythm"](rule=rule), InMemory(record), [0], [0], 1000) == [expected]


def test_a_frame_after_the_last_beat_is_undefined_by_the_code(make_record: Make) -> None:
    record = make_record([100], ["normal"], [(0, 4000, "normal")])
    task = TASKS["rhythm"](rule="code")
    assert answers(task, InMemory(record), [0, 0, 0], [99, 100, 200], 500) == ["normal", "undefined", "undefined"]


# RR interval in samples at 250 Hz; 250 is 60 and 150 is 100 beats per minute
RATE_CASES = [(149, "tachycardia"), (150, "normal"), (250, "normal"), (251, "bradycardia")]


@pytest.mark.parametrize("rule", ["paper", "code"])
@pytest.mark.parametrize(("interval", "expected"), RATE_CASES)
@pytest.mark.parametrize("fs", [250.0, 500.0, 1000.0])
def test_both_ends_of_normal_are_normal(make_record: Make, rule: str, interval: int, expected: str, fs: float) -> None:
    factor = int(fs / 250)
    beats = regular(interval * factor, 30)
    record = make_record(beats, ["normal"] * 30, samples=beats[-1] + 1, fs=fs)
    assert answers(TASKS["heart_rate"](rule=rule), InMemory(record), [0], [500 * factor], 2000 * factor) == [expected]


def test_the_papers_heart_rate_sees_a_second_beyond_the_frame(make_record: Make) -> None:
    record = make_record([800, 1749], ["normal"] * 2)
    paper, code = (TASKS["heart_rate"](rule=rule) for rule in ("paper", "code"))
    assert paper.window(500, 250.0) == (250, 750) and code.window(500, 250.0) == (0, 500)
    assert answers(paper, InMemory(record), [0] * 4, [999, 1000, 1050, 1051], 500) == [
        "noise",
        "bradycardia",
        "bradycardia",
        "noise",
    ]
    assert answers(code, InMemory(record), [0], [800], 1000) == ["noise"]


def test_the_codes_heart_rate_needs_three_beats_in_the_closed_frame(make_record: Make) -> None:
    code = TASKS["heart_rate"](rule="code")
    assert answers(code, InMemory(make_record([0, 200, 400], ["normal"] * 3)), [0] * 2, [0, 1], 400) == [
        "normal",
        "noise",
    ]


@st.composite
def records(draw: st.DrawFn, make: Make) -> Record:
    samples = draw(st.integers(60, 160))
    beats = sorted(draw(st.sets(st.integers(0, samples - 1), max_size=25)))
    kinds = draw(st.lists(st.integers(0, len(BEATS) - 1), min_size=len(beats), max_size=len(beats)))
    bounds = sorted(draw(st.sets(st.integers(0, samples), max_size=12)))
    pairs = pairwise(bounds)
    zones = [(a, b, draw(st.integers(0, len(RHYTHMS) - 1))) for a, b in pairs if draw(st.booleans())]
    return make(beats, kinds, zones, samples=samples, fs=draw(st.sampled_from([5.0, 12.5, 20.0])))


@pytest.mark.parametrize(("name", "rule"), EVERY)
def test_random_annotations(make_record: Make, slow_rules: Rules, name: str, rule: str) -> None:
    @settings(max_examples=60)
    @given(records(make_record), st.integers(1, 50), st.lists(st.integers(0, 109), min_size=1, max_size=8))
    def check(record: Record, frame: int, wanted: list[int]) -> None:
        starts = [min(start, record.signal.shape[1] - frame) for start in wanted]
        expected = [slow_rules[name, rule](record, start, frame) for start in starts]
        assert answers(TASKS[name](rule=rule), InMemory(record), [0] * len(starts), starts, frame) == expected

    check()


def busy(generator: np.random.Generator, make: Make, name: str) -> Record:
    """A record with beats 0 to 1.5 s apart and abutting, gappy and empty stretches of rhythm."""
    samples = int(generator.integers(3000, 6000))
    beats = np.unique(generator.integers(0, samples, int(generator.integers(0, samples // 60))))
    bounds = np.unique(generator.integers(0, samples + 1, 30))
    kinds = generator.integers(0, len(RHYTHMS), len(bounds) - 1)
    zones = [(a, b, k) for a, b, k in zip(bounds[:-1], bounds[1:], kinds, strict=True) if generator.random() < 0.7]
    return make(beats, generator.integers(0, len(BEATS), len(beats)), zones, samples=samples, name=name)


@pytest.fixture(scope="module")
def random_archive(tmp_path_factory: pytest.TempPathFactory, make_record: Make) -> tuple[Archive, dict[str, Record]]:
    generator = np.random.default_rng(11)
    made = {name: busy(generator, make_record, name) for name in ("a", "b", "c", "d", "e", "f")}
    made["g"] = make_record(samples=4000, name="g")  # neither beats nor rhythms
    out = tmp_path_factory.mktemp("rules") / "shards"
    write_shard_set(made.values(), out, shard_mb=0.02)  # several shards
    return open_archive([out]), made


def frames(archive: Archive, generator: np.random.Generator, count: int, frame: int) -> tuple[list[int], list[int]]:
    record = generator.integers(0, len(archive.samples), count)
    start = generator.integers(0, archive.samples[record] - frame + 1)
    start[::7] = 0
    start[1::7] = archive.samples[record[1::7]] - frame  # both ends of records, where shards join
    return record.tolist(), start.tolist()


@pytest.mark.parametrize(("name", "rule"), EVERY)
def test_random_annotations_in_shards(random_archive, slow_rules: Rules, name: str, rule: str) -> None:
    archive, made = random_archive
    for seed, frame in enumerate((1, 130, 512)):
        record, start = frames(archive, np.random.default_rng(seed), 60, frame)
        expected = [
            slow_rules[name, rule](made[archive.record_id[r]], s, frame) for r, s in zip(record, start, strict=True)
        ]
        assert answers(TASKS[name](rule=rule), archive, record, start, frame) == expected


@pytest.mark.parametrize(("name", "rule"), EVERY)
def test_dropped_frames(random_archive, name: str, rule: str) -> None:
    archive, _ = random_archive
    keep, drop = (TASKS[name](rule=rule, undefined=treatment) for treatment in ("keep", "drop"))
    record, start = (np.array(column) for column in frames(archive, np.random.default_rng(5), 300, 300))
    kept, dropped = (task.targets(record, start, 300, archive) for task in (keep, drop))
    gone = "noise" if name == "heart_rate" else "undefined"
    assert drop.classes == tuple(c for c in keep.classes if c != gone)
    for before, after in zip(kept, dropped, strict=True):
        assert after == IGNORED if keep.classes[before] == gone else drop.classes[after] == keep.classes[before]
    assert (dropped == IGNORED).any() and (dropped != IGNORED).any()


def against_real(names: list[str], database: str, root: Path, out: Path, slow: Rules, per_record: int) -> set[str]:
    """Compare all rules on records of ``root``; returns the answers seen, to show that the test had cases."""
    source = DATABASES[database]()
    read = {ref.record: source.read(ref) for ref in source.find(root) if ref.record in names}
    assert sorted(read) == sorted(names)
    write_shard_set(read.values(), out, shard_mb=0.3)
    archive = open_archive([out])
    seen = set()
    frame = 2048
    for number, name in enumerate(archive.record_id):
        generator = np.random.default_rng(number)
        start = generator.integers(0, archive.samples[number] - frame + 1, per_record)
        # the loops need the record's neighbourhood only, and are slow on half an hour
        near = [_near(read[name], s, frame) for s in start.tolist()]
        for task, rule in EVERY:
            expected = [slow[task, rule](part, at, frame) for part, at in near]
            got = answers(TASKS[task](rule=rule), archive, [number] * len(start), start.tolist(), frame)
            assert got == expected, (name, task, rule)
            seen.update(f"{task} {answer}" for answer in got)
    return seen


def _near(record: Record, start: int, frame: int) -> tuple[Record, int]:
    """The record from some seconds before a frame to some seconds after it, and the frame's start in that part."""
    left = max(start - 5000, 0)
    right = min(start + frame + 5000, record.signal.shape[1])
    beats = (record.beats >= left) & (record.beats < right)
    zones = record.rhythms[(record.rhythms[:, 1] > left) & (record.rhythms[:, 0] < right)].copy()
    zones[:, :2] = np.clip(zones[:, :2], left, right) - left
    part = replace(
        record,
        signal=record.signal[:, left:right],
        beats=record.beats[beats] - left,
        beat_classes=record.beat_classes[beats],
        rhythms=zones,
    )
    return part, start - left


def test_excerpts_of_real_annotations(slow_rules: Rules, tmp_path: Path) -> None:
    root = Path(__file__).parents[1] / "data" / "mitdb"
    seen = against_real(["100", "106", "201", "219"], "mitdb", root, tmp_path / "s", slow_rules, 4)
    assert {"beat pvc", "rhythm afib", "rhythm normal"} <= seen


def test_real_mitdb(real_data: Path, slow_rules: Rules, tmp_path: Path) -> None:
    # PAC in 209 and 232, aberrated beats in 201, AFib in 201 and 203, flutter in 202 and 203, other rhythms in 207
    names = [n for n in ("201", "202", "203", "207", "209", "210", "232") if (real_data / f"mitdb/{n}.atr").exists()]
    seen = against_real(names, "mitdb", real_data / "mitdb", tmp_path / "s", slow_rules, 25)
    assert {"beat pac", "beat pvc", "rhythm afib", "rhythm aflut", "rhythm undefined", "heart_rate bradycardia"} <= seen


def test_real_icentia11k(real_data: Path, slow_rules: Rules, tmp_path: Path) -> None:
    if not (real_data / "icentia11k").is_dir():
        pytest.skip("real recordings are not on this machine (set ECGRAY_DATA)")
    seen = against_real(["p00000_s00"], "icentia11k", real_data / "icentia11k", tmp_path / "s", slow_rules, 150)
    assert {"beat normal", "rhythm normal"} <= seen
