"""Ingest of recordings whose signals are easily misread: what comes of them, and what is said of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import wfdb

from ecgray.databases import DATABASES
from ecgray.databases.record import Record, RecordRefused
from ecgray.shards.archive import Archive, open_archive
from ecgray.shards.ingest import ingest
from ecgray.shards.inspect import summary
from ecgray.shards.inspect_page import write_page
from ecgray.shards.moments import lead_moments
from ecgray.shards.prepare import Target, prepare
from ecgray.shards.resample import resample
from ecgray.shards.writer import write_shard_set
from ecgray.tasks import TASKS
from ecgray.tasks.label import label_frames


def heart(seconds: float, fs: float = 250, bpm: float = 72, seed: int = 0) -> npt.NDArray[np.float64]:
    """Millivolts: a spike of 1 mV per beat, a slow wave after it, and a little noise."""
    times = np.arange(round(seconds * fs)) / fs
    since = times % (60 / bpm) - 0.3
    spike = np.exp(-((since / 0.012) ** 2)) + 0.2 * np.exp(-(((since - 0.25) / 0.05) ** 2))
    return spike + np.random.default_rng(seed).normal(0, 0.01, len(times))


def breathing(seconds: float, fs: float = 250) -> npt.NDArray[np.float64]:
    return 2 * np.sin(2 * np.pi * 0.3 * np.arange(round(seconds * fs)) / fs)


def write(folder: Path, name: str, mv: Sequence[npt.NDArray[np.float64]], *signals: str, fs: float = 250) -> Path:
    """A record of format 16; ``signals``: gain and name of each, as the header has them."""
    folder.mkdir(parents=True, exist_ok=True)
    gains = [float(signal.split("(")[0].split("/")[0].split()[0]) or 200 for signal in signals]
    digital = np.stack([np.rint(values * gain) for values, gain in zip(mv, gains, strict=True)], axis=1)
    digital.astype("<i2").tofile(folder / f"{name}.dat")
    lines = [f"{name}.dat 16 {signal.split(' ', 1)[0]} 16 0 0 0 0 {signal.split(' ', 1)[1]}" for signal in signals]
    (folder / f"{name}.hea").write_text("\n".join([f"{name} {len(lines)} {fs:g} {len(digital)}", *lines, ""]))
    return folder / name


def ingested(root: Path, out: Path, caplog: pytest.LogCaptureFixture | None = None, **options: Any) -> Archive:
    database = DATABASES["folder"](lead=tuple(options.pop("lead", ())))
    with caplog.at_level(logging.WARNING) if caplog else pytest.MonkeyPatch.context():
        ingest(database, root, out, workers=0, progress=False, **options)
    return open_archive([out])


@pytest.mark.parametrize(
    "order", [("RESP", "ECG"), ("resp imp", "ABP", "ecg lead II"), ("EEG C3-A2", "MLII"), ("Resp", "lead0")]
)
def test_beats_are_detected_on_the_ecg_wherever_it_stands(tmp_path: Path, order: tuple[str, ...]) -> None:
    mv = [breathing(60)] * (len(order) - 1) + [heart(60)]
    for number in range(2):
        write(tmp_path / "files", f"r{number}", mv, *(f"2000 {name}" for name in order))
    archive = ingested(tmp_path / "files", tmp_path / "set", detect_beats=True)
    assert archive.leads == order[-1:]
    assert archive.beat_totals[:, 0].tolist() == [72, 72]


def test_beats_are_not_looked_for_on_what_is_no_ecg(tmp_path: Path, random_records: Any) -> None:
    record = random_records.random_record(
        np.random.default_rng(0), record="r", patient="p", leads=("RESP",), annotated=False
    )
    target = Target(fs=250, leads=("ECG",), detect_beats=True)
    with pytest.raises(RecordRefused, match=r"on ECG leads, and it has RESP \(without --detect-beats"):
        prepare(record, target)
    assert prepare(record, replace(target, detect_beats=False)).attributes["leads"] == ["RESP"]


def test_beats_keep_out_of_gaps(tmp_path: Path) -> None:
    mv = heart(120)
    digital = np.rint(mv * 1000)
    digital[5000:15000] = -32768
    digital.astype("<i2").tofile(write(tmp_path / "files", "r", [mv], "1000/mV ECG").with_suffix(".dat"))
    for fs, ratio in ((None, 1), (125.0, 0.5)):
        archive = ingested(tmp_path / "files", tmp_path / f"set{fs}", detect_beats=True, fs=fs)
        assert archive.gaps.tolist() == [[0, 5000 * ratio, 15000 * ratio]]
        beats, _ = archive.beats(0)
        assert not ((beats >= 5000 * ratio) & (beats < 15000 * ratio)).any()
        assert len(beats) == pytest.approx(96, abs=2)
        assert archive.attributes[0]["notes"]["gaps"] == "40 s"


def test_spellings_of_a_lead_are_one_lead(tmp_path: Path) -> None:
    spelled = [("i", "ii", "avr"), ("I", "II", "AVR"), ("I", "II", "aVR"), ("II", "I", "aVR")]
    for number, leads in enumerate(spelled * 2):
        mv = {"i": heart(10, seed=1), "ii": heart(10, seed=2), "avr": -heart(10, seed=3)}
        names = [f"1000/mV {lead}" for lead in leads]
        write(tmp_path / "files" / f"p{number}", f"r{number}", [mv[lead.casefold()] for lead in leads], *names)
    every = ingested(tmp_path / "files", tmp_path / "every")
    assert (len(every), sorted(lead.casefold() for lead in every.leads)) == (8, ["avr", "i", "ii"])
    for lead in (["II"], ["I", "II", "aVR"], ["AVR", "ii"]):
        archive = ingested(tmp_path / "files", tmp_path / "-".join(lead), lead=lead)
        assert (len(archive), archive.leads) == (8, tuple(lead))
        for number in range(8):
            for row, name in enumerate(lead):
                expected = np.rint(1000 * mv[name.casefold()])
                np.testing.assert_array_equal(archive.cut([number], [0], 2500)[0, row], expected)
        assert all("leads" not in attributes for attributes in archive.attributes)


@pytest.mark.parametrize(
    ("mv", "signal", "fs", "said"),
    [
        (
            heart(20),
            "1000 ECG",
            250,
            "2 of 2 records do not say the unit of a signal, and WFDB then means mV: r0 (ECG)",
        ),
        (
            heart(20),
            "0/mV ECG",
            250,
            "2 of 2 records do not say the gain of a signal, and WFDB then means 200 per",
        ),
        (
            heart(20, fs=90),
            "1000/mV ECG",
            90,
            "are sampled below 100 Hz, where little is left of a beat's form: r0 (90 Hz)",
        ),
        (heart(20), "1/uV ECG", 250, "Lead ECG spans 0.00"),
        (30 * heart(20), "1000/mV ECG", 250, "Lead ECG spans 2"),
        (breathing(30), "1000/mV ECG", 250, "have beats at a rate outside 25 to 220 per minute: r0 ("),
        (
            np.r_[heart(10), np.full(5000, 0.5)],
            "1000/mV ECG",
            250,
            "are flat for most of their length: r0 (lead ECG, 67%)",
        ),
        (
            np.r_[heart(10), np.random.default_rng(0).integers(0, 3, 5000) / 1000],
            "1000/mV ECG",
            250,
            "are flat for most of their length: r0 (lead ECG, 67%)",
        ),
        (np.r_[heart(10), np.zeros(2250)], "1000/mV ECG", 250, ""),
        (heart(20), "1000/mV ECG", 250, ""),
        (heart(20, bpm=200), "1000/mV ECG", 250, ""),
    ],
    ids=range(11),
)
def test_what_looks_wrong_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mv: Any, signal: str, fs: float, said: str
) -> None:
    for number in range(2):
        write(tmp_path / "files", f"r{number}", [mv], signal, fs=fs)
    ingested(tmp_path / "files", tmp_path / "set", caplog, detect_beats=True)
    lines = [record.getMessage() for record in caplog.records if "patients apart" not in record.getMessage()]
    assert sum(said in line for line in lines) == 1 if said else not lines, lines
    assert sum(said in line for line in summary([tmp_path / "set"])["notes"]) == int(bool(said))


@pytest.mark.parametrize(("every", "said"), [(1, 0), (4, 1)])
def test_a_file_that_marks_few_of_the_beats_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, every: int, said: int
) -> None:
    write(tmp_path / "files", "r0", [heart(60)], "1000/mV ECG")
    beats = np.arange(100, 15_000, 200 * every)  # 75 a minute where each is marked
    wfdb.wrann("r0", "atr", beats, ["N"] * len(beats), write_dir=str(tmp_path / "files"))
    ingested(tmp_path / "files", tmp_path / "set", caplog)
    assert sum("have beats at a rate outside 25 to 220 per minute" in line for line in caplog.messages) == said


def test_moments_leave_the_gaps_out(random_records: Any, tmp_path: Path) -> None:
    plain = random_records.random_record(np.random.default_rng(0), record="r", patient="p", leads=("I", "II"))
    gaps = np.array([[0, 100], [4000, 9000], [14_999, 15_000]])
    spoilt = plain.signal.copy()
    for start, end in gaps:
        spoilt[:, start:end] = 30_000
    kept = np.ones(15_000, bool)
    for start, end in gaps:
        kept[start:end] = False
    found = lead_moments(spoilt, plain.gain, plain.baseline, gaps)
    assert found == lead_moments(plain.signal[:, kept], plain.gain, plain.baseline)
    record = replace(plain, signal=spoilt, gaps=gaps)
    manifest = write_shard_set([record], tmp_path / "set")
    mv = (plain.signal[:, kept] - plain.baseline[:, None]) / plain.gain[:, None]
    assert (manifest.mean_mv, manifest.sd_mv) == pytest.approx((mv.mean(), mv.std()))
    found_gaps = summary([tmp_path / "set"])["gaps"]
    assert found_gaps == {"records": 1, "seconds": pytest.approx(5101 / 250)}
    page = write_page([tmp_path / "set"], tmp_path / "p.html").read_text()
    assert "1 records have gaps, 20.4 seconds in all" in page and 'class="gap"><title>samples are missing' in page
    there = open_archive([tmp_path / "set"])
    assert there.in_gap([0, 0, 0, 0], [0, 90, 100, 3990], 20).tolist() == [20, 10, 0, 10]


@pytest.mark.parametrize(
    "gaps", [[[-1, 5]], [[5, 5]], [[7, 5]], [[5, 16_000]], [[5, 9], [9, 12]], [[5, 9], [2, 3]], [[5, 9, 1]]]
)
def test_gaps_that_are_none_are_refused(random_records: Any, gaps: list[list[int]]) -> None:
    record: Record = random_records.random_record(np.random.default_rng(0), record="r", patient="p")
    with pytest.raises(RecordRefused, match="gaps must ascend inside the signal and lie apart"):
        prepare(replace(record, gaps=np.array(gaps)), Target(fs=250, leads=("MLII",)))


def test_gaps_move_with_the_rate(random_records: Any) -> None:
    record: Record = random_records.random_record(np.random.default_rng(0), record="r", patient="p")
    moved = resample(replace(record, gaps=np.array([[0, 7], [8, 11], [14_990, 15_000]])), 100.0)
    assert moved.gaps.tolist() == [[0, 5], [5996, 6000]]


def test_a_frame_in_a_gap_has_no_label(random_records: Any, tmp_path: Path) -> None:
    import pandas as pd

    record = random_records.random_record(np.random.default_rng(0), record="r", patient="p")
    write_shard_set([replace(record, gaps=np.array([[3000, 4000]]))], tmp_path / "set")
    frames = pd.DataFrame({"record": "r", "start": [2488, 2489, 3500, 3999, 4000]})
    table = label_frames(open_archive([tmp_path / "set"]), TASKS["beat"](), 512, frames)
    assert (table["label"] == "").tolist() == [False, True, True, True, False]


def test_breathing_before_the_ecg(real_data: Path, tmp_path: Path) -> None:
    archive = ingested(field(real_data, "06_breathing_first"), tmp_path / "set", detect_beats=True)
    assert archive.leads == ("ECG",)
    assert archive.beat_totals[:, 0].tolist() == pytest.approx([148] * 3, abs=1)


def test_leads_in_three_spellings(real_data: Path, tmp_path: Path) -> None:
    root = field(real_data, "05_lead_spellings")
    assert len(ingested(root, tmp_path / "every")) == 6
    assert len(ingested(root, tmp_path / "one", lead=["II"])) == 6
    assert ingested(root, tmp_path / "three", lead=["I", "II", "aVR"]).leads == ("I", "II", "aVR")


def test_lengths_that_the_header_leaves_open(real_data: Path, tmp_path: Path) -> None:
    assert ingested(field(real_data, "02_length_zero"), tmp_path / "set").samples.tolist() == [3600] * 3


def test_an_electrode_that_was_off(real_data: Path, tmp_path: Path) -> None:
    archive = ingested(field(real_data, "11_electrode_off"), tmp_path / "set")
    lengths = {name: 0.0 for name in archive.record_id}
    for number, start, end in archive.gaps.tolist():
        lengths[archive.record_id[number]] += (end - start) / 250
    assert lengths == {"off00": 0, "off50": 50, "off70": 70}


def field(real_data: Path, name: str) -> Path:
    folder = real_data / "field" / name
    if not folder.is_dir():
        pytest.skip("the situations are not on this machine")
    return folder
