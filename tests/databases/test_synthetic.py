"""The generator against its own truth, against a detector, against real mitdb, and its files against wfdb."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import wfdb
from scipy.io import loadmat
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ecgray.databases import BEATS, DATABASES, RHYTHMS, RecordRefused
from ecgray.databases.cinc2017 import CinC2017
from ecgray.databases.ecg_generator import Strip, generate
from ecgray.databases.ecg_noise import NoisyStretch
from ecgray.databases.ecg_patient import CONDITIONS, Noise, draw_patient
from ecgray.databases.ecg_rhythm import AFIB, AFLUT, SINUS, Episode
from ecgray.databases.icentia11k import Icentia11k
from ecgray.databases.mitdb import MitBih
from ecgray.databases.qrs import detect_beats
from ecgray.databases.synthesise import LABEL_SHARES, label_of, labelled_strip, write_ambulatory, write_labelled
from ecgray.databases.synthetic import Synthetic
from ecgray.databases.wfdb_write import write_annotations
from ecgray.errors import EcgrayError

FS = 250.0
QUIET = Noise(
    baseline_mv=0.005,
    muscle_mv=0.003,
    powerline_mv=0.0,
    powerline_hz=50.0,
    motion_mv=0.0,
    motions_per_minute=0.0,
    noisy_fraction=0.0,
)
Array = npt.NDArray[np.float64]


def strip_of(condition: str, seed: int, seconds: float = 300.0, quiet: bool = True, rhythm: int | None = None) -> Strip:
    patient = draw_patient(np.random.default_rng([seed, 0]), condition)
    if quiet:
        patient = replace(patient, noise=QUIET)
    episodes = None if rhythm is None else (Episode(start=0.0, end=seconds, rhythm=rhythm),)
    return generate(
        patient,
        np.random.default_rng([seed, 1]),
        seconds=seconds,
        fs=FS,
        episodes=episodes,
        stretches=() if quiet else None,
    )


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def ambulatory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ambulatory")
    write_ambulatory(root, patients=8, segments_per_patient=2, segment_seconds=240.0, seed=5)
    return root


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    write_labelled(root, records=60, seed=5)
    return root


# Files


def test_same_seed_same_bytes_whatever_else_is_written(ambulatory: Path, labelled: Path, tmp_path: Path) -> None:
    write_ambulatory(tmp_path / "fewer", patients=3, segments_per_patient=1, segment_seconds=240.0, seed=5)
    fewer, all_files = digests(tmp_path / "fewer"), digests(ambulatory)
    assert len(fewer) == 9
    assert fewer == {name: all_files[name] for name in fewer}
    write_labelled(tmp_path / "labels", records=12, seed=5)
    few, many = digests(tmp_path / "labels"), digests(labelled)
    assert all(many[name] == few[name] for name in few if "A5" in name)
    write_ambulatory(tmp_path / "other", patients=1, segments_per_patient=1, segment_seconds=240.0, seed=6)
    assert not set(digests(tmp_path / "other").values()) & set(fewer.values())


def test_labelled_sets_of_different_seeds_share_no_name(tmp_path: Path) -> None:
    names = {}
    for seed in (0, 1, 17):
        write_labelled(tmp_path / str(seed), records=3, seed=seed)
        names[seed] = [reference.record for reference in Synthetic().find(tmp_path / str(seed))]
    assert names[0] == ["A00001", "A00002", "A00003"]
    assert names[1][0] == "A100001"
    assert names[17][-1] == "A1700003"
    assert (tmp_path / "1" / "training2017" / "RECORDS").read_text().split() == names[1]
    with pytest.raises(EcgrayError, match="1-99999 records"):
        write_labelled(tmp_path / "many", records=100_000, seed=0)


def test_the_table_of_databases_loads_no_signal_processing() -> None:
    """It is imported by most commands, and scipy.signal alone takes a second."""
    code = "import sys, ecgray.databases; assert not {'scipy.signal', 'wfdb', 'sleepecg'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wfdb_reads_every_segment(ambulatory: Path) -> None:
    database = Synthetic()
    references = database.find(ambulatory)
    assert [reference.record for reference in references] == [f"p{p:05d}_s{s:02d}" for p in range(8) for s in range(2)]
    for reference in references:
        theirs, ours = wfdb.rdrecord(str(reference.path), physical=False), database.read(reference)
        assert (theirs.fs, theirs.sig_len, theirs.adc_gain, theirs.baseline) == (250, 60_000, [74.36482269503546], [0])
        assert np.array_equal(theirs.d_signal[:, 0], ours.signal[0])
        assert wfdb.rdrecord(str(reference.path)).p_signal.dtype == np.float64  # checks the checksum, too
        marks = wfdb.rdann(str(reference.path), "atr")
        beats = np.array(marks.symbol) != "+"
        assert np.array_equal(marks.sample[beats], ours.beats)
        symbols = dict(zip(BEATS, "QNSaV", strict=True))
        assert [symbols[BEATS[code]] for code in ours.beat_classes] == list(np.array(marks.symbol)[beats])
        assert ours.database == "synthetic" and ours.annotated and ours.fs == 250.0


def test_annotations_have_the_bytes_of_wfdb(ambulatory: Path, tmp_path: Path) -> None:
    for path in sorted(ambulatory.rglob("*.atr"))[::5]:
        marks = wfdb.rdann(str(path.with_suffix("")), "atr")
        wfdb.wrann(
            path.stem, "atr", marks.sample, marks.symbol, aux_note=marks.aux_note, fs=250, write_dir=str(tmp_path)
        )
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_long_gaps_between_annotations(tmp_path: Path) -> None:
    samples = np.array([0, 1023, 2047, 70_000, 70_000, 3_000_000])
    write_annotations(tmp_path / "gaps", samples, list("NNSV+Q"), ["None"] * 4 + [")", "None"], 250.0)
    marks = wfdb.rdann(str(tmp_path / "gaps"), "atr")
    assert list(marks.sample) == list(samples) and marks.symbol == list("NNSV+Q") and marks.aux_note[4] == ")"


def test_real_annotations_are_written_back_byte_for_byte(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "icentia11k" / "p00" / "p00000" / "p00000_s00"
    if not source.with_suffix(".atr").is_file():
        pytest.skip("no segment of Icentia11K on this machine")
    marks = wfdb.rdann(str(source), "atr")
    write_annotations(tmp_path / "again", marks.sample, marks.symbol, marks.aux_note, 250.0)
    assert (tmp_path / "again.atr").read_bytes() == source.with_suffix(".atr").read_bytes()


def test_zones_are_well_formed(ambulatory: Path) -> None:
    """The rule of the real conversion, as a slow loop over the file's own order."""
    seen: set[str] = set()
    for path in sorted(ambulatory.rglob("*.atr")):
        marks = wfdb.rdann(str(path.with_suffix("")), "atr")
        zone, previous = None, None
        for sample, symbol, text in zip(marks.sample.tolist(), marks.symbol, marks.aux_note, strict=True):
            if symbol != "+":
                assert text == "None" and symbol in "QNSaV"
                assert previous is None or sample > previous
                previous = sample
                continue
            assert sample == previous, "a marker follows its beat, on the same sample"
            if text == ")":
                assert zone is not None
                zone = None
            else:
                assert zone is None and text in ("(N", "(AFIB", "(AFL", "(N)", "(AFIB)", "(AFL)")
                zone = None if text.endswith(")") else text
                seen.add(text)
        assert zone is None, "the last zone is closed"
    assert {"(N", "(AFIB", "(AFL"} <= seen


def test_zones_are_the_generators_rhythms(ambulatory: Path) -> None:
    """Every beat inside a zone of its rhythm, first and last included; noisy ones in none; noise has no other class."""
    references = Icentia11k().find(ambulatory)
    noisy = 0
    for number, reference in enumerate(references):
        patient, segment = divmod(number, 2)
        record = Icentia11k().read(reference)
        person = draw_patient(np.random.default_rng([5, 1, patient]), CONDITIONS[patient % len(CONDITIONS)])
        truth = generate(person, np.random.default_rng([5, 2, patient, segment]), seconds=240.0, fs=FS)
        assert np.array_equal(truth.beats, record.beats) and np.array_equal(truth.beat_classes, record.beat_classes)
        for sample, rhythm, kind in zip(truth.beats, truth.beat_rhythms, truth.beat_classes, strict=True):
            zones = [row[2] for row in record.rhythms if row[0] <= sample < row[1]]
            if RHYTHMS[rhythm] == "noise":
                assert zones == [] and BEATS[kind] == "undefined"
                noisy += 1
            else:
                assert zones == [rhythm] and BEATS[kind] != "undefined"
    assert noisy > 20


def test_every_class_stands_in_two_patients_of_eight(ambulatory: Path) -> None:
    database = Synthetic()
    beats: dict[int, set[str]] = {}
    rhythms: dict[int, set[str]] = {}
    for reference in database.find(ambulatory):
        record = database.read(reference)
        for code in np.unique(record.beat_classes):
            beats.setdefault(int(code), set()).add(record.patient)
        for code in np.unique(record.rhythms[:, 2]):
            rhythms.setdefault(int(code), set()).add(record.patient)
    assert all(len(beats[BEATS.index(name)]) >= 2 for name in BEATS)
    assert all(len(rhythms[RHYTHMS.index(name)]) >= 2 for name in ("normal", "afib", "aflut"))


def test_labelled_set_is_the_challenges_layout(labelled: Path) -> None:
    references = Synthetic().find(labelled)
    assert [reference.record for reference in references] == [f"A{n}" for n in range(500_001, 500_061)]
    assert (labelled / "training2017" / "RECORDS").read_text().split() == [ref.record for ref in references]
    labels = [label_of(n, 5) for n in range(60)]
    assert [reference.labels[0] for reference in references] == labels
    for reference in references:
        record = Synthetic().read(reference)
        path = str(reference.path)
        assert np.array_equal(loadmat(path)["val"], record.signal)
        assert np.array_equal(wfdb.rdrecord(path, physical=False).d_signal[:, 0], record.signal[0])
        assert 9 * 300 <= record.signal.shape[1] <= 60 * 300 and record.fs == 300.0 and record.gain[0] == 1000.0
        assert record.database == "synthetic" and not record.annotated
    assert CinC2017().read(references[0]).database == "cinc2017"


def test_label_shares_hold_for_every_prefix() -> None:
    for seed in range(3):
        labels = np.array([label_of(n, seed) for n in range(1000)])
        for n in (40, 100, 1000):
            for label, share in LABEL_SHARES.items():
                assert abs(np.mean(labels[:n] == label) - share) < 2.5 / n


@pytest.mark.parametrize("records", [5, 6, 22, 34, 70])
def test_small_sets_are_read_whatever_their_labels(tmp_path: Path, records: int) -> None:
    """Real label versions are told apart by content; generated labels must never be mistaken for one."""
    folder = tmp_path / "training2017"
    write_labelled(tmp_path, records=records, seed=1)
    table = folder / "REFERENCE-v3.csv"
    table.write_text("".join(f"A{100_000 + n},O\n" for n in range(1, records + 1)))
    assert {reference.labels for reference in Synthetic().find(tmp_path)} == {("O",)}


def test_bad_arguments_and_folders(tmp_path: Path) -> None:
    with pytest.raises(EcgrayError, match="1-100000 patients"):
        write_ambulatory(tmp_path / "a", patients=0, segments_per_patient=1, segment_seconds=60.0, seed=0)
    with pytest.raises(EcgrayError, match="segment_seconds=2"):
        write_ambulatory(tmp_path / "a", patients=1, segments_per_patient=1, segment_seconds=2.0, seed=0)
    with pytest.raises(EcgrayError, match="records=0"):
        write_labelled(tmp_path / "a", records=0, seed=0)
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("no recording")
    for folder in (tmp_path / "b", tmp_path / "missing"):
        with pytest.raises(EcgrayError):
            Synthetic().find(folder)
    assert DATABASES["synthetic"] is Synthetic


# Physiology


@pytest.mark.parametrize("condition", ["normal", "pac", "pvc", "afib", "flutter", "bundle"])
def test_annotations_stand_on_the_largest_deflection(condition: str) -> None:
    missed = total = 0
    for seed in range(6):
        strip = strip_of(condition, seed, 120.0)
        for sample in strip.beats[(strip.beats > 100) & (strip.beats < len(strip.signal_mv) - 100)]:
            near = strip.signal_mv[sample - 20 : sample + 21]
            level = np.median(strip.signal_mv[sample - 100 : sample + 101])
            missed += abs(int(np.abs(near - level).argmax()) - 20) > 0.030 * FS
            total += 1
    assert missed <= 0.01 * total


def test_a_detector_finds_the_beats() -> None:
    found = total = wrong = detected = 0
    for seed, condition in enumerate((*CONDITIONS, "bundle", "tachycardia", "bradycardia")):
        strip = strip_of(condition, seed, quiet=False)
        peaks = detect_beats(strip.signal_mv, FS)
        clear = strip.beats[strip.beat_classes > 0]
        found += int((np.abs(clear[:, None] - peaks[None]).min(axis=1) < 0.15 * FS).sum())
        total += len(clear)
        noisy = strip.beats[strip.beat_classes == 0]
        outside = peaks if not len(noisy) else peaks[np.abs(peaks[:, None] - noisy[None]).min(axis=1) > 5 * FS]
        wrong += int((np.abs(outside[:, None] - strip.beats[None]).min(axis=1) >= 0.15 * FS).sum())
        detected += len(outside)
    print(
        f"\nsleepecg on the generator: sensitivity {found / total:.4f}, PPV {1 - wrong / detected:.4f}, {total} beats"
    )
    assert found / total > 0.97
    assert wrong / detected < 0.05


def test_pvc_has_a_compensatory_pause_and_pac_has_not() -> None:
    pauses: dict[str, list[float]] = {"pvc": [], "pac": []}
    for name, values in pauses.items():
        for seed in range(8):
            # Small variability, so that the interval before tells the ones that would have followed.
            drawn = draw_patient(np.random.default_rng([seed, 0]), name)
            patient = replace(drawn, noise=QUIET, respiration=0.01, mayer=0.01)
            episodes = (Episode(start=0.0, end=600.0, rhythm=SINUS),)
            rng = np.random.default_rng([seed, 1])
            strip = generate(patient, rng, seconds=600.0, fs=FS, episodes=episodes, stretches=())
            code = BEATS.index(name)
            kinds, rr = strip.beat_classes, np.diff(strip.beats) / FS
            for i in range(3, len(kinds) - 2):
                if kinds[i] == code and (kinds[[i - 3, i - 2, i - 1, i + 1]] == 1).all() and rr[i - 2] > 0.65:
                    assert rr[i - 1] < 0.97 * rr[i - 2], "premature"
                    values.append((rr[i - 1] + rr[i]) / rr[i - 2])
    assert len(pauses["pvc"]) > 100 and len(pauses["pac"]) > 100
    assert abs(np.median(pauses["pvc"]) - 2.0) < 0.02 and np.mean(np.abs(np.array(pauses["pvc"]) - 2) < 0.2) > 0.9
    assert np.percentile(pauses["pac"], 95) < 1.99 and 1.6 < np.median(pauses["pac"]) < 1.9


def test_pvc_is_wide_without_p_and_its_t_is_discordant() -> None:
    for seed in range(12):
        waves = draw_patient(np.random.default_rng(seed), "pvc").waveforms
        grid = np.arange(-0.2, 0.25, 0.001)

        def shape(kernels: Array, grid: Array = grid) -> Array:
            offset = grid[:, None] - kernels[:, 1]
            width = np.where(offset < 0, kernels[:, 2], kernels[:, 3])
            return np.asarray((kernels[:, 0] * np.exp(-0.5 * (offset / width) ** 2)).sum(axis=1))

        widths = []
        for kernels in (waves.qrs[0], *waves.qrs[2:]):
            wave = np.abs(shape(kernels))
            above = grid[wave > 0.1 * wave.max()]
            widths.append(above[-1] - above[0])
        if widths[0] < 0.11:
            assert min(widths[1:]) > widths[0] and min(widths[1:]) > 0.08
        for qrs, t in zip(waves.qrs[2:], waves.t[2:], strict=True):
            assert shape(qrs)[np.abs(shape(qrs)).argmax()] * t[0, 0] < 0


def p_wave(strip: Strip, before: int = 60, after: int = 8) -> Array:
    """Mean of the quarter second before each normal beat that has no T wave in it."""
    rr = np.diff(strip.beats, prepend=0)
    chosen = strip.beats[(strip.beat_classes == 1) & (rr > 0.72 * FS) & (strip.beats > before)]
    cuts = np.stack([strip.signal_mv[b - before : b - after] for b in chosen])
    return np.asarray(cuts.mean(axis=0) - np.linspace(cuts[:, 0].mean(), cuts[:, -1].mean(), before - after))


def test_no_p_wave_in_fibrillation_and_one_before_every_sinus_beat() -> None:
    ratios = []
    for seed in range(10):
        drawn = draw_patient(np.random.default_rng(seed), "afib")
        patient = replace(drawn, noise=QUIET, rate_bpm=65.0, afib_rate_bpm=65.0)
        sizes = []
        for rhythm in (SINUS, AFIB):
            episodes = (Episode(start=0.0, end=600.0, rhythm=rhythm),)
            rng = np.random.default_rng(seed)
            strip = generate(patient, rng, seconds=600.0, fs=FS, episodes=episodes, stretches=())
            sizes.append(np.ptp(p_wave(strip)))
        ratios.append(sizes[1] / sizes[0])
    print("\nmean wave before QRS, fibrillation over sinus rhythm:", np.round(ratios, 2))
    assert np.median(ratios) < 0.35 and max(ratios) < 0.8


def test_atrial_waves_show_in_the_spectrum() -> None:
    """Between QRS-T complexes: f waves have a peak at their frequency, flutter a sharper one with harmonics."""
    for rhythm, condition in ((AFIB, "afib"), (AFLUT, "flutter")):
        for seed in range(4):
            patient = replace(draw_patient(np.random.default_rng([seed, 0]), condition), noise=QUIET)
            waves = replace(patient.waveforms, qrs=patient.waveforms.qrs * 1e-6, t=patient.waveforms.t * 0)
            strip = generate(
                replace(patient, waveforms=waves),
                np.random.default_rng(seed),
                seconds=60.0,
                fs=FS,
                episodes=(Episode(start=0.0, end=60.0, rhythm=rhythm),),
                stretches=(),
            )
            power = np.abs(np.fft.rfft(strip.signal_mv * np.hanning(len(strip.signal_mv)))) ** 2
            hz = np.fft.rfftfreq(len(strip.signal_mv), 1 / FS)
            band = (hz > 3) & (hz < 20)
            wanted = patient.f_wave_hz if rhythm == AFIB else patient.flutter_hz
            smooth = np.convolve(power, np.ones(31) / 31, "same")
            assert abs(hz[band][smooth[band].argmax()] - wanted) < (1.0 if rhythm == AFIB else 0.3)


def sample_entropy(rr: Array) -> float:
    """Of one step, with a tolerance of 8 % of the mean interval."""
    scaled = rr / rr.mean()
    near = (np.abs(scaled[:, None] - scaled[None]) < 0.08) & ~np.eye(len(rr), dtype=bool)
    return float(-np.log((1 + (near[:-1, :-1] & near[1:, 1:]).sum()) / (1 + near[:-1, :-1].sum())))


def test_irregular_intervals_separate_fibrillation() -> None:
    entropy, rmssd, rhythm, condition = [], [], [], []
    for seed in range(32):
        strip = strip_of(CONDITIONS[seed % len(CONDITIONS)], seed, 600.0, quiet=False)
        rr = np.diff(strip.beats) / FS
        for start in range(0, len(rr) - 30, 30):
            rhythms = set(strip.beat_rhythms[start : start + 31].tolist())
            if len(rhythms) == 1 and RHYTHMS.index("noise") not in rhythms:
                window = rr[start : start + 30]
                entropy.append(sample_entropy(window))
                rmssd.append(float(np.sqrt(np.mean(np.diff(window) ** 2)) / window.mean()))
                rhythm.append(rhythms.pop())
                condition.append(CONDITIONS[seed % len(CONDITIONS)])
    afib, names = np.array(rhythm) == AFIB, np.array(condition)
    assert min(afib.sum(), (~afib).sum()) > 100 and (np.array(rhythm) == AFLUT).sum() > 20
    by_entropy, by_rmssd = roc_auc_score(afib, entropy), roc_auc_score(afib, rmssd)
    regular = np.isin(names, ("normal", "afib"))
    without_ectopy = roc_auc_score(afib[regular], np.array(rmssd)[regular])
    print(
        f"\nAF against the rest, 30 beats: AUC {by_entropy:.3f} (sample entropy), {by_rmssd:.3f} (RMSSD / mean), "
        f"{without_ectopy:.3f} (the same without the patients with frequent ectopy and flutter)"
    )
    assert by_entropy >= 0.9 and by_rmssd >= 0.8 and without_ectopy >= 0.9
    assert np.percentile(np.array(rmssd)[afib], 1) > 0.1, "no regular fibrillation"


def statistics(signal_mv: Array, beats: Array, kinds: Array, rhythms: Array, fs: float) -> dict[str, float]:
    """Of normal beats in sinus rhythm and in fibrillation (s), and of the signal (mV)."""
    found: dict[str, float] = {"sd": float(signal_mv.std())}
    rr = np.diff(beats) / fs
    for name, rhythm in (("sinus", SINUS), ("AF", AFIB)):
        normal = (kinds == 1) & (rhythms == rhythm)
        pairs = normal[1:] & normal[:-1]
        triples = pairs[1:] & pairs[:-1]
        if triples.sum() > 50:
            found[f"{name} RR"], found[f"{name} SDNN"] = float(rr[pairs].mean()), float(rr[pairs].std())
            found[f"{name} RMSSD"] = float(np.sqrt(np.mean(np.diff(rr)[triples] ** 2)))
    chosen = [int(b) for b in beats[kinds == 1] if 90 <= b < len(signal_mv) - 90]
    if len(chosen) > 50:
        heights = [signal_mv[b - 10 : b + 11].max() - np.median(signal_mv[b - 90 : b + 90]) for b in chosen[::10]]
        found["R"] = float(np.median(heights))
    return found


def test_statistics_stand_beside_real_mitdb(real_data: Path) -> None:
    """Medians over the generator's patients lie within the 5th to 95th percentile of the real MLII records."""
    database, real, made = MitBih(), [], []
    for reference in database.find(real_data / "mitdb"):
        try:
            record = database.read(reference)
        except RecordRefused:
            continue
        signal_mv = (record.signal[0] - record.baseline[0]) / record.gain[0]
        rhythms = np.zeros(len(record.beats))
        for start, end, code in record.rhythms:
            rhythms[(record.beats >= start) & (record.beats < end)] = code
        real.append(statistics(signal_mv, record.beats, record.beat_classes, rhythms, record.fs))
    for seed in range(32):
        patient = draw_patient(np.random.default_rng([seed, 7]), CONDITIONS[seed % len(CONDITIONS)])
        strip = generate(patient, np.random.default_rng([seed, 8]), seconds=1800.0, fs=360.0)
        signal_mv = strip.signal_mv.astype(float)
        made.append(statistics(signal_mv, strip.beats, strip.beat_classes, strip.beat_rhythms, 360.0))
    print(f"\n{'5, 25, 50, 75, 95 %':20} {'mitdb, MLII':>34} {'generator':>34}")
    for name in ("sinus RR", "sinus SDNN", "sinus RMSSD", "AF RR", "AF SDNN", "AF RMSSD", "R", "sd"):
        ours, theirs = (
            np.percentile([row[name] for row in rows if name in row], [5, 25, 50, 75, 95]) for rows in (made, real)
        )
        unit = "mV" if name in ("R", "sd") else "s"
        print(f"{f'{name} ({unit})':20} {' '.join(f'{x:6.3f}' for x in theirs)} {' '.join(f'{x:6.3f}' for x in ours)}")
        # Few records fibrillate, so their range is widened.
        assert 0.8 * theirs[0] <= ours[2] <= 1.2 * theirs[4], name


def test_sinus_rhythm_has_respiratory_and_mayer_peaks() -> None:
    patient = replace(
        draw_patient(np.random.default_rng(3), "normal"),
        respiration=0.05,
        mayer=0.05,
        pac=0.0,
        pvc=0.0,
        excursions_per_hour=0.0,
        respiration_hz=0.27,
        mayer_hz=0.1,
    )
    strip = generate(
        patient,
        np.random.default_rng(0),
        seconds=900.0,
        fs=FS,
        stretches=(),
        episodes=(Episode(start=0.0, end=900.0, rhythm=SINUS),),
    )
    times = strip.beats / FS
    grid = np.arange(times[1], times[-1], 0.25)
    tachogram = np.interp(grid, times[1:], np.diff(times))
    power = np.abs(np.fft.rfft((tachogram - tachogram.mean()) * np.hanning(len(grid)))) ** 2
    hz = np.fft.rfftfreq(len(grid), 0.25)

    def density(low: float, high: float) -> float:
        return float(power[(hz >= low) & (hz < high)].mean())

    assert density(0.24, 0.30) > 5 * density(0.34, 0.45) and density(0.24, 0.30) > 3 * density(0.15, 0.20)
    assert density(0.085, 0.115) > 3 * density(0.15, 0.20)


def test_rates_pass_through_bradycardia_and_tachycardia() -> None:
    rates = np.concatenate([60 * FS / np.diff(strip_of("normal", seed, 1800.0).beats) for seed in range(8)])
    assert np.mean(rates < 57) > 0.02 and np.mean(rates > 103) > 0.02 and np.mean((rates > 60) & (rates < 100)) > 0.5
    assert rates.min() > 25 and rates.max() < 200


def test_noise_hides_the_heart_and_an_electrode_that_is_off_has_no_beats() -> None:
    patient = draw_patient(np.random.default_rng(1), "normal")
    off = (NoisyStretch(start=20.0, end=40.0, heart=0.0, strength=0.5),)
    strip = generate(patient, np.random.default_rng(0), seconds=60.0, fs=FS, stretches=off)
    assert not ((strip.beats > 20.2 * FS) & (strip.beats < 39.8 * FS)).any()
    edges = np.flatnonzero(np.diff(strip.beats) > 15 * FS)[0]
    assert (strip.beat_rhythms[edges : edges + 2] == RHYTHMS.index("noise")).all()
    assert (strip.beat_classes[edges : edges + 2] == 0).all()


def test_rate_of_sampling_changes_the_samples_and_not_the_heart() -> None:
    patient = draw_patient(np.random.default_rng(2), "pac")
    slow, fast = (
        generate(patient, np.random.default_rng(4), seconds=60.0, fs=fs, stretches=()) for fs in (250.0, 300.0)
    )
    assert len(slow.signal_mv) == 15_000 and len(fast.signal_mv) == 18_000
    n = min(len(slow.beats), len(fast.beats))
    assert np.abs(slow.beats[:n] / 250.0 - fast.beats[:n] / 300.0).max() < 0.006
    assert np.array_equal(slow.beat_classes[:n], fast.beat_classes[:n])


def test_a_linear_model_on_samples_does_not_solve_the_labels() -> None:
    """But counting on the rhythm helps: a linear model on two numbers from the detected beats does better."""
    strips = [
        (label_of(n, 2), labelled_strip(np.random.default_rng([2, 3, n]), label_of(n, 2), 300.0)) for n in range(260)
    ]
    strips = [(label, strip) for label, strip in strips if label in "NA"]
    afib = np.array([label == "A" for label, _ in strips])
    samples = np.stack([strip.signal_mv[: 9 * 300 : 6] for _, strip in strips])
    numbers = []
    for _, strip in strips:
        rr = np.diff(detect_beats(strip.signal_mv, 300.0)) / 300.0
        numbers.append([sample_entropy(rr) if len(rr) > 5 else 0.0, np.std(rr) / np.mean(rr) if len(rr) > 1 else 0.0])
    half = len(strips) // 2
    scores = [
        roc_auc_score(
            afib[half:], LogisticRegression(max_iter=500).fit(x[:half], afib[:half]).decision_function(x[half:])
        )
        for x in (samples, np.array(numbers))
    ]
    print(f"\nA against N: AUC {scores[0]:.2f} on raw samples, {scores[1]:.2f} on two numbers from RR intervals")
    assert scores[0] < 0.7 and scores[1] > 0.85
