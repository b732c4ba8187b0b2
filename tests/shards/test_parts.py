"""Moments, layout, preparation and resampling, each beside the plain way to do it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import resample_poly

from ecgray.databases.record import RecordRefused, Reference
from ecgray.shards import resample as resample_module
from ecgray.shards.layout import lay_out, source_sizes
from ecgray.shards.leads import lead_order
from ecgray.shards.moments import lead_moments, merge
from ecgray.shards.prepare import Target, prepare
from ecgray.shards.resample import resample


def test_moments_of_pieces_are_those_of_the_whole():
    draw = np.random.default_rng(0)
    signal = draw.integers(-32768, 32768, (2, 100_001)).astype(np.int16)
    gain, baseline = np.array([200.0, 1000.0]), np.array([1024.0, -7.0])
    mv = (signal - baseline[:, None]) / gain[:, None]
    pieces = [merge(lead_moments(part, gain, baseline)) for part in np.array_split(signal, 7, axis=1)]
    for moments in (merge(lead_moments(signal, gain, baseline)), merge(pieces), merge(pieces[::-1])):
        assert moments.n == mv.size
        assert moments.mean == pytest.approx(mv.mean(), rel=1e-12)
        assert moments.sd == pytest.approx(mv.std(), rel=1e-12)


def test_moments_survive_an_offset_that_dwarfs_the_signal():
    signal = np.tile(np.array([32000, 32001], np.int16), 5_000_000)[None]
    (moments,) = lead_moments(signal, np.array([1e6]), np.array([0.0]))
    assert moments.mean == pytest.approx(0.0320005, rel=1e-14)
    assert moments.sd == pytest.approx(0.5e-6, rel=1e-12)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9_000_000)), min_size=1, max_size=200), st.integers(1, 50))
def test_layout_keeps_everyone_in_order_and_patients_whole(drawn, shard_mb):
    drawn = sorted(drawn)
    references = [Reference(record=str(i), patient=f"{p:02d}", path=Path("x")) for i, (p, _) in enumerate(drawn)]
    sizes = [size for _, size in drawn]
    shards = lay_out(references, sizes, shard_mb)
    assert [i for shard in shards for i in shard] == list(range(len(drawn)))
    assert all(len(shard) for shard in shards)
    limit = min(shard_mb, max(sum(sizes) / 8e6, 16)) * 1e6
    weights = [sum(sizes[i] for i in shard) for shard in shards]
    assert max(weights) <= 4 * limit + 9_000_000
    homes: dict[str, set[int]] = {}
    for number, shard in enumerate(shards):
        for i in shard:
            homes.setdefault(references[i].patient, set()).add(number)
    for patient, where in homes.items():
        weight = sum(size for reference, size in zip(references, sizes, strict=True) if reference.patient == patient)
        assert len(where) == 1 or weight > 2 * limit


def test_sizes_are_those_of_the_largest_file(tmp_path):
    for name, size in (("a.hea", 3), ("a.dat", 50), ("a.atr", 9), ("b.1.mat", 7), ("b.1.hea", 1), ("other", 2)):
        (tmp_path / name).write_bytes(bytes(size))
    references = [Reference(record=name, patient=name, path=tmp_path / name) for name in ("a", "b.1", "c")]
    assert source_sizes(references) == [50, 7, 0]


@pytest.fixture
def record(random_records):
    return random_records.random_record(np.random.default_rng(0), record="a", patient="a", leads=("I", "II"))


def test_leads_come_in_the_order_of_the_set(record):
    found = prepare(record, Target(fs=250.0, leads=("II", "I")))
    assert found.leads == ("II", "I")
    np.testing.assert_array_equal(found.signal, record.signal[::-1])
    np.testing.assert_array_equal(found.gain, record.gain[::-1])
    found = prepare(record, Target(fs=250.0, leads=("ii", "i")))
    assert found.leads == ("ii", "i")
    np.testing.assert_array_equal(found.signal, record.signal[::-1])


def test_a_record_of_other_leads_is_refused(record):
    for leads in (("V1", "V2"), ("V1", "I"), ("I", "I")):
        with pytest.raises(RecordRefused, match=f"its leads are I, II, those of the set {', '.join(leads)}"):
            prepare(record, Target(fs=250.0, leads=leads))


def test_a_single_lead_may_have_another_name(random_records):
    record = random_records.random_record(np.random.default_rng(0), record="a", patient="a", leads=("ecg",))
    renamed = prepare(record, Target(fs=250.0, leads=("MLII",)))
    assert renamed.attributes["leads"] == ["ecg"]
    np.testing.assert_array_equal(renamed.signal, record.signal)


def test_leads_that_bear_one_name_are_known_by_their_places_alone():
    assert lead_order(("ECG", "ECG", "II"), ("ecg", "ecg", "ii")) == [0, 1, 2]
    assert lead_order(("ECG", "ECG", "II"), ("II", "ECG", "ECG")) is None
    assert lead_order(("I", "II", "V1"), ("V1", "I", "II")) == [2, 0, 1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"signal": np.zeros((2, 0), np.int16), "beats": np.empty(0, np.int64)}, "no samples"),
        ({"signal": np.zeros((2, 9), np.float64)}, "must be int16"),
        ({"signal": np.zeros((1, 9), np.int16)}, "must be int16 of 2 leads"),
        ({"fs": 0.0}, "sampling rate of 0.0 Hz"),
        ({"gain": np.array([0.0, 1.0])}, "gain must be finite and not 0"),
        ({"baseline": np.array([np.nan, 1.0])}, "baseline finite"),
        ({"gain": np.array([1.0])}, "per lead"),
        ({"beats": np.array([5, 3]), "beat_classes": np.zeros(2, np.uint8)}, "beats must ascend"),
        ({"beats": np.array([10**9]), "beat_classes": np.zeros(1, np.uint8)}, "beats must ascend"),
        ({"beats": np.array([3]), "beat_classes": np.array([9], np.uint8)}, "beat class outside"),
        ({"beats": np.array([3])}, "do not belong together"),
        ({"rhythms": np.array([[0, 10, 1], [9, 20, 1]])}, "rhythms must ascend"),
        ({"rhythms": np.array([[0, 10**9, 1]])}, "rhythms must ascend"),
        ({"rhythms": np.array([[0, 10, 6]])}, "rhythm class outside"),
    ],
)
def test_a_record_that_breaks_its_contract_is_refused(record, change, reason):
    with pytest.raises(RecordRefused, match=reason):
        prepare(replace(record, **change), Target(fs=250.0, leads=record.leads))


def test_a_resampled_sine_is_the_sine_at_the_new_rate(random_records):
    for old, new in ((360, 250), (300, 250), (250, 300), (257, 250), (250, 128)):
        times = np.arange(old * 20) / old
        adc = np.rint(1024 + 200 * np.sin(2 * np.pi * 5 * times)).astype(np.int16)
        base = random_records.random_record(np.random.default_rng(0), record="a", patient="a", fs=float(old))
        record = replace(
            base,
            signal=adc[None],
            gain=np.array([200.0]),
            baseline=np.array([1024.0]),
            beats=base.beats[:0],
            beat_classes=base.beat_classes[:0],
            rhythms=base.rhythms[:0],
        )
        found = resample(record, new)
        assert found.fs == new and found.signal.shape == (1, new * 20)
        expected = np.sin(2 * np.pi * 5 * np.arange(new * 20) / new)
        inner = slice(new // 2, -new // 2)
        mv = (found.signal[0] - found.baseline[0]) / found.gain[0]
        assert np.abs(mv - expected)[inner].max() < 0.01
        assert (found.gain, found.baseline) == (record.gain, record.baseline) and found.requantisation_uv == 0


def test_annotations_move_along_and_stay_inside(record):
    for new in (128.0, 300.0, 50.0):
        found = resample(record, new)
        samples = found.signal.shape[1]
        expected = [min(int(np.floor(p * new / 250 + 0.5)), samples - 1) for p in record.beats]
        assert found.beats.tolist() == expected
        np.testing.assert_array_equal(found.beat_classes, record.beat_classes)
        valid = prepare(found, Target(fs=new, leads=record.leads))  # still a valid record
        assert (
            (valid.signal is found.signal and valid.notes == {"low_rate": f"{new:g} Hz"})
            if new < 100
            else valid is found
        )
        seconds = (found.rhythms[:, 1] - found.rhythms[:, 0]).sum() / new
        assert seconds == pytest.approx((record.rhythms[:, 1] - record.rhythms[:, 0]).sum() / 250, rel=0.05)


def test_overshoot_takes_a_smaller_gain_and_says_how_much_it_costs(record):
    square = np.where(np.arange(5000) % 100 < 50, 32767, -32768).astype(np.int16)
    record = replace(
        record,
        signal=np.stack([square, record.signal[1, :5000]]),
        beats=record.beats[:0],
        beat_classes=record.beat_classes[:0],
        rhythms=record.rhythms[:0],
    )
    found = resample(record, 300)
    mv = (found.signal[0] - found.baseline[0]) / found.gain[0]
    assert found.gain[0] < record.gain[0] and found.gain[1] == record.gain[1]
    assert 0 < found.requantisation_uv <= 500.0001 / found.gain[0]
    plateau = mv[20:40]
    assert np.abs(plateau - (32767 - record.baseline[0]) / record.gain[0]).max() < 0.1 * plateau.max()


def noise_at(random_records, fs, samples):
    record = random_records.random_record(np.random.default_rng(0), record="a", patient="a", samples=samples)
    return replace(
        record, fs=fs, beats=record.beats[:0], beat_classes=record.beat_classes[:0], rhythms=record.rhythms[:0]
    )


@pytest.mark.parametrize(("old", "new"), [(360, 250), (300, 250), (257, 250), (1000, 250), (128.5, 250), (9999, 250)])
def test_rates_of_real_recorders_keep_their_exact_ratio(random_records, old, new):
    record = noise_at(random_records, float(old), 500)
    exact = Fraction(new) / Fraction(old)
    centred = resample_poly(record.signal[0] - record.baseline[0], exact.numerator, exact.denominator, padtype="line")
    np.testing.assert_array_equal(resample(record, new).signal[0], np.rint(centred + record.baseline[0]))


@pytest.mark.parametrize("old", [249.9999, 250.0001, 333.3333, 257.0001, 9999.9999, 499.98765])
def test_slightly_odd_rates_take_the_coarsest_ratio_that_keeps_time(random_records, old, monkeypatch):
    """A beat at the end stands less than half a sample from where it belongs, by a filter of the least length."""
    record = noise_at(random_records, old, 3000)
    used = []
    plain = resample_module.at_ratio

    def watched(signal, ratio, baseline):
        used.append(ratio.as_integer_ratio())
        return plain(signal, ratio, baseline)

    monkeypatch.setattr(resample_module, "at_ratio", watched)
    found = resample(record, 250.0)
    ((up, down),) = used
    assert abs(up / down - 250 / old) * 3000 < 0.5
    for smaller in range(1, down):
        assert abs(round(smaller * 250 / old) / smaller - 250 / old) * 3000 >= 0.5
    assert abs(found.signal.shape[1] - 3000 * 250 / old) < 1.5


def test_what_no_bounded_filter_resamples_is_refused(random_records):
    slow = noise_at(random_records, 0.00001, 3000)
    long = replace(slow, fs=249.99999, signal=np.zeros((1, 2**24), np.int16))
    longer = replace(slow, fs=1.0, signal=np.zeros((1, 2**24), np.int16))
    single = replace(slow, fs=300.0, signal=np.ones((1, 1), np.int16))
    for record, reason in (
        (slow, "3000 samples at 1e-05 Hz cannot be brought to 250 Hz"),
        (long, "by a bounded filter"),
        (longer, "beyond 2147483648 values"),
        (single, "a single sample cannot be resampled"),
    ):
        with pytest.raises(RecordRefused, match=reason):
            resample(record, 250.0)


def test_overshoot_of_a_signal_far_from_zero_keeps_its_resolution(random_records):
    """A recorder's offset of a million units, held in the baseline, costs the signal nothing."""
    square = np.where(np.arange(5000) % 100 < 50, 32000, -32000).astype(np.int16)
    record = replace(
        noise_at(random_records, 360.0, 5000), signal=square[None], gain=np.array([200.0]), baseline=np.array([-1e6])
    )
    found = resample(record, 250.0)
    plain = resample_poly(record.signal[0] - record.baseline[0], 25, 36, padtype="line") / record.gain[0]
    mv = (found.signal[0] - found.baseline[0]) / found.gain[0]
    assert np.abs(mv - plain).max() * 1000 <= 2 * 500 / 150
    assert 0 < found.requantisation_uv <= 500 / 150
