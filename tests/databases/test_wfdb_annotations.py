"""The numpy decoder against wfdb.rdann, and zones and beats against slow loops."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from wfdb.io.annotation import ann_labels, is_qrs

from ecgray.databases.record import BEATS, RHYTHMS, RecordRefused
from ecgray.databases.vocabulary import BEAT_SYMBOLS
from ecgray.databases.wfdb_annotations import SYMBOLS, AnnotationFile, beats, read_annotations, rhythms

NAMES = {"N": "normal", "AFIB": "afib", "AFL": "aflut"}


def word(kind: int, value: int) -> bytes:
    return (kind << 10 | value & 0x3FF).to_bytes(2, "little")


def skip(interval: int) -> bytes:
    high, low = (interval & 0xFFFFFFFF).to_bytes(4, "big")[:2], (interval & 0xFFFFFFFF).to_bytes(4, "big")[2:]
    return word(59, 0) + high[::-1] + low[::-1]


def field(interval: int, kind: int, aux: bytes, extras: list[tuple[int, int]], force_skip: bool) -> bytes:
    out = b""
    if force_skip or not 0 <= interval < 1024:
        out, interval = skip(interval), 0
    out += word(kind, interval)
    for extra, value in extras:
        out += word(extra, value & 0xFF)
    if aux:
        out += word(63, len(aux)) + aux + b"\0" * (len(aux) % 2)
    return out


FIELD = st.builds(
    field,
    st.one_of(st.integers(0, 400), st.integers(-50, 3_000_000)),
    st.integers(0, 49),
    # Bytes of all values: texts whose words look like fields of their own must not be taken for such.
    st.one_of(st.just(b""), st.sampled_from([b"(N", b"(AFIB\0", b"None", b")"]), st.binary(max_size=12)),
    st.lists(st.tuples(st.sampled_from([60, 61, 62]), st.integers(0, 255)), max_size=3, unique_by=lambda x: x[0]),
    st.booleans(),
)


def assert_same_as_wfdb(file: Path) -> None:
    ours = read_annotations(file)
    theirs = wfdb.rdann(str(file.with_suffix("")), file.suffix[1:], return_label_elements=["label_store"])
    np.testing.assert_array_equal(ours.sample, theirs.sample)
    np.testing.assert_array_equal(ours.type, theirs.label_store)
    assert list(ours.aux) == [text.rstrip("\0") for text in theirs.aux_note]


@settings(max_examples=10_000 if "ECGRAY_LONG" in os.environ else 150)
@given(st.lists(FIELD, max_size=40), st.booleans())
def test_random_files_as_rdann_reads_them(fields: list[bytes], with_resolution: bool) -> None:
    note = b"## time resolution: 250"
    first = word(22, 0) + word(63, len(note)) + note + b"\0" + skip(-1) + word(0, 1) if with_resolution else word(1, 7)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "r.atr")
        file.write_bytes(first + b"".join(fields) + b"\0\0")
        assert_same_as_wfdb(file)
        assert read_annotations(file).fs == (250 if with_resolution else None)


WRANN_MARK = st.tuples(
    st.integers(1, 5000), st.sampled_from(sorted(SYMBOLS.values())), st.text("(NAFIB)\0", max_size=7)
)


@settings(max_examples=30)
@given(st.lists(WRANN_MARK, min_size=1, max_size=30))
def test_files_of_wrann(marks: list[tuple[int, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sample = np.cumsum([mark[0] for mark in marks])
        aux = [mark[2] for mark in marks]
        wfdb.wrann("r", "atr", sample, symbol=[mark[1] for mark in marks], aux_note=list(aux), fs=360, write_dir=folder)
        ours = read_annotations(Path(folder, "r.atr"))
        assert_same_as_wfdb(Path(folder, "r.atr"))
    assert [SYMBOLS[code] for code in ours.type.tolist()] == [mark[1] for mark in marks]
    assert list(ours.aux) == [text.rstrip("\0") for text in aux]
    assert ours.fs == 360


def test_symbols_are_those_of_wfdb() -> None:
    assert {label.label_store: label.symbol for label in ann_labels if label.label_store} == SYMBOLS


def test_every_qrs_symbol_of_wfdb_is_a_beat() -> None:
    assert set(BEAT_SYMBOLS) == {SYMBOLS[code] for code, qrs in enumerate(is_qrs) if qrs}


def test_excerpts(mitdb_excerpts: Path) -> None:
    for file in sorted(mitdb_excerpts.glob("*.atr")):
        assert_same_as_wfdb(file)


def test_real_files(real_data: Path) -> None:
    files = sorted([*real_data.glob("mitdb/*.at*"), *real_data.glob("icentia11k/*/*/*.atr")])
    for file in files:
        assert_same_as_wfdb(file)
    assert len(files) > 40


@pytest.mark.parametrize("content", [b"\0", word(1, 5), word(1, 5) + word(63, 40) + b"(N\0\0"])
def test_cut_off_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.atr").write_bytes(content)
    with pytest.raises(RecordRefused, match="cut off"):
        read_annotations(tmp_path / "r.atr")


@pytest.mark.parametrize("content", [word(61, 5), skip(30) + word(63, 0), skip(5000)])
def test_fields_without_annotation_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.atr").write_bytes(content + b"\0\0")
    with pytest.raises(RecordRefused, match="malformed"):
        read_annotations(tmp_path / "r.atr")


@pytest.mark.parametrize("content", [b"", b"\0\0"])
def test_an_empty_file_or_an_end_mark_alone_holds_no_annotations(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.atr").write_bytes(content)
    assert len(wfdb.rdann(str(tmp_path / "r"), "atr").sample) == 0
    annotations = read_annotations(tmp_path / "r.atr")
    assert len(annotations.sample) == 0
    assert annotations.counts() == {}
    assert rhythms(annotations, NAMES, 100).shape == (0, 3)
    assert beats(annotations, BEAT_SYMBOLS)[0].shape == (0,)


def annotation_file(marks: list[tuple[int, str, str]], fs: float | None = None) -> AnnotationFile:
    codes = {symbol: code for code, symbol in SYMBOLS.items()}
    aux = np.full(len(marks), "", dtype=object)
    aux[:] = [mark[2] for mark in marks]
    return AnnotationFile(
        np.array([mark[0] for mark in marks], np.int64), np.array([codes[mark[1]] for mark in marks], np.uint8), aux, fs
    )


def slow_rhythms(marks: list[tuple[int, str, str]], samples: int) -> list[list[int]]:
    """Zones by walking through the marks in time order; none reaches into the next one."""
    zones = []
    opened: tuple[int, int] | None = None
    events = [(sample, text) for sample, symbol, text in marks if symbol == "+" and (text == ")" or text[:1] == "(")]
    for place, (sample, text) in enumerate(events):
        limit = min([s for s, t in events[place + 1 :] if t != ")"], default=samples)
        if text == ")":
            if opened is not None:
                zones.append([opened[0], min(sample + 1, limit), opened[1]])
            opened = None
            continue
        if opened is not None:
            zones.append([opened[0], sample, opened[1]])
        opened = (sample, RHYTHMS.index(NAMES.get(text.strip("()"), "other")))
        if text.endswith(")"):
            zones.append([sample, min(sample + 1, limit), opened[1]])
            opened = None
    if opened is not None:
        zones.append([opened[0], samples, opened[1]])
    return [zone for zone in zones if zone[1] > zone[0]]


MARK = st.tuples(
    st.integers(0, 60),
    st.sampled_from('NNVA~+++"'),
    st.sampled_from(["", "(N", "(AFIB", ")", "(AFL)", "(B", "x", "(N)"]),
)


WRANN_MARK = st.tuples(
    st.integers(1, 5000), st.sampled_from(sorted(SYMBOLS.values())), st.text("(NAFIB)\0", max_size=7)
)


@settings(max_examples=300)
@given(st.lists(MARK, max_size=25))
def test_rhythm_zones_are_ascending_disjoint_and_those_of_a_loop(marks: list[tuple[int, str, str]]) -> None:
    marks = sorted(marks, key=lambda mark: mark[0])
    zones = rhythms(annotation_file(marks), NAMES, 64)
    assert (zones[:, 1] > zones[:, 0]).all()
    assert (zones[1:, 0] >= zones[:-1, 1]).all()
    assert zones.tolist() == slow_rhythms(marks, 64)


@given(st.lists(MARK, max_size=25))
def test_beats_are_those_of_a_loop(marks: list[tuple[int, str, str]]) -> None:
    position, classes = beats(annotation_file(marks), BEAT_SYMBOLS)
    expected = sorted(((s, symbol) for s, symbol, _ in marks if symbol in BEAT_SYMBOLS), key=lambda mark: mark[0])
    assert position.tolist() == [sample for sample, _ in expected]
    assert [BEATS[c] for c in classes] == [BEAT_SYMBOLS[symbol] for _, symbol in expected]


def test_a_rhythm_runs_to_the_next_mark_or_the_end_and_comments_are_no_rhythm() -> None:
    marks = [
        (30, "N", ""),
        (40, "+", "(AFIB"),
        (50, '"', "(N"),
        (60, "+", "PSE"),
        (70, "+", "(SVTA"),
        (90, "N", "(AFL"),
    ]
    afib, other = RHYTHMS.index("afib"), RHYTHMS.index("other")
    assert rhythms(annotation_file(marks), NAMES, 100).tolist() == [[40, 70, afib], [70, 100, other]]


def test_icentia_zones_include_their_first_and_last_beat() -> None:
    marks = [(sample, "N", "None") for sample in range(10, 80, 10)]
    marks += [(10, "+", "(N"), (30, "+", ")"), (50, "+", "(AFIB)"), (60, "+", "(AFL"), (70, "+", ")")]
    marks.sort(key=lambda mark: mark[0])
    normal, afib, aflut = (RHYTHMS.index(name) for name in ("normal", "afib", "aflut"))
    assert rhythms(annotation_file(marks), NAMES, 100).tolist() == [[10, 31, normal], [50, 51, afib], [60, 71, aflut]]


def test_annotations_at_another_resolution_move_to_the_record() -> None:
    marks = [(100, "N", ""), (201, "N", "")]
    assert annotation_file(marks, fs=200).at_fs(250, 250).sample.tolist() == [125, 251]
    assert annotation_file(marks, fs=200).at_fs(250, 1).sample.tolist() == [125, 251]
    assert annotation_file(marks, fs=250).at_fs(250, 1).sample.tolist() == [100, 201]


def test_positions_without_a_resolution_of_their_own_are_frames() -> None:
    marks = [(0, "N", ""), (3, "N", ""), (7, "N", "")]
    assert annotation_file(marks).at_fs(250, 250).sample.tolist() == [0, 3, 7]
    assert annotation_file(marks).at_fs(500, 250).sample.tolist() == [0, 6, 14]
    assert annotation_file(marks).at_fs(250, 1).sample.tolist() == [0, 750, 1750]


def test_symbols_and_rhythm_texts_are_counted() -> None:
    counts = annotation_file([(1, "N", "None"), (2, "+", "(N"), (3, "N", ""), (4, "+", ")")]).counts()
    assert counts == {"N": 2, "+": 2, "+ (N": 1, "+ )": 1}
