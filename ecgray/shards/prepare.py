"""A record as a shard takes it: valid, at the set's rate, with the set's leads in the set's order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ecgray.databases.ecg_leads import lead_for_beats
from ecgray.databases.gaps import between
from ecgray.databases.record import BEATS, RHYTHMS, Record, RecordRefused
from ecgray.shards.leads import lead_order, same_lead
from ecgray.shards.remarks import remarks
from ecgray.shards.resample import resample

LEAST_FS = 100.0
"""Hz below which a QRS complex is a few samples."""

_CHOOSE = " (take leads that all have with --lead)"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What all records of a shard set share, and what is done to a record that differs.

    resampled: bring other rates to ``fs`` instead of refusing them; detect_beats: find beats where the
    source says nothing of them (``Record.annotated``).
    """

    fs: float
    leads: tuple[str, ...]
    resampled: bool = False
    detect_beats: bool = False


def prepare(record: Record, target: Target) -> Record:
    """The record ready for its shard. Raises RecordRefused with the one reason why it cannot enter."""
    reason = _invalid(record)
    if reason:
        raise RecordRefused(reason)
    own_leads = record.leads
    if len(record.leads) != len(target.leads):
        raise RecordRefused(f"{len(record.leads)} leads, the set has {len(target.leads)}{_CHOOSE}")
    if record.leads != target.leads:
        order = _order(record.leads, target.leads)
        own_leads = tuple(record.leads[place] for place in order)
        record = _with_leads(record, target.leads, order)
    lowest = min(record.fs, target.fs)
    if record.fs != target.fs:
        if not target.resampled:
            raise RecordRefused(f"sampled at {record.fs:g} Hz, the set at {target.fs:g} Hz (resample with --fs)")
        record = resample(record, target.fs)
    if target.detect_beats and not record.annotated:
        record = _with_detected_beats(record, own_leads)
    return _with_remarks(record, {"low_rate": f"{lowest:g} Hz"} if lowest < LEAST_FS else {})


def _invalid(record: Record) -> str | None:
    """Why a record breaks its contract, if it does; nothing that could not be read back may reach a shard."""
    if any("\ud800" <= letter <= "\udfff" for letter in record.id + record.patient):
        return "its name or its folder's is not UTF-8; rename it"
    signal, n = record.signal, len(record.leads)
    if signal.dtype != np.int16 or signal.ndim != 2 or signal.shape[0] != n:
        return f"signal must be int16 of {n} leads, got {signal.dtype} of shape {signal.shape}"
    samples = signal.shape[1]
    if samples == 0:
        return "no samples"
    if not (np.isfinite(record.fs) and record.fs > 0):
        return f"sampling rate of {record.fs} Hz"
    if record.gain.shape != (n,) or record.baseline.shape != (n,):
        return "gain and baseline must be given per lead"
    if not (np.isfinite(record.gain).all() and (record.gain != 0).all() and np.isfinite(record.baseline).all()):
        return "gain must be finite and not 0, and baseline finite"
    beats, zones = record.beats, record.rhythms
    if len(beats) != len(record.beat_classes) or zones.ndim != 2 or zones.shape[1] != 3:
        return "annotation arrays do not belong together"
    if len(beats) and (beats[0] < 0 or beats[-1] >= samples or (np.diff(beats) < 0).any()):
        return "beats must ascend inside the signal"
    if len(beats) and record.beat_classes.max() >= len(BEATS):
        return "beat class outside the vocabulary"
    if len(zones) and (
        zones[0, 0] < 0
        or zones[-1, 1] > samples
        or (zones[:, 0] >= zones[:, 1]).any()
        or (zones[1:, 0] < zones[:-1, 1]).any()
    ):
        return "rhythms must ascend inside the signal without overlap"
    if len(zones) and (zones[:, 2].min() < 0 or zones[:, 2].max() >= len(RHYTHMS)):
        return "rhythm class outside the vocabulary"
    gaps = record.gaps
    if gaps.shape == (0, 2):
        return None
    if gaps.ndim != 2 or gaps.shape[1] != 2 or (np.diff(gaps.reshape(-1), prepend=-1, append=samples + 1) <= 0).any():
        return "gaps must ascend inside the signal and lie apart"
    return None


def _order(given: tuple[str, ...], wanted: tuple[str, ...]) -> list[int]:
    order = lead_order(given, wanted)
    if order is None:
        raise RecordRefused(f"its leads are {_names(given)}, those of the set {_names(wanted)}{_CHOOSE}")
    return order


def _with_leads(record: Record, leads: tuple[str, ...], order: list[int]) -> Record:
    """Leads in the set's order and under its names; a single lead of another name keeps that among the attributes."""
    if len(leads) == 1 and not same_lead(record.leads[0], leads[0]):
        return replace(record, leads=leads, attributes={**record.attributes, "leads": list(record.leads)})
    return replace(
        record, leads=leads, signal=record.signal[order], gain=record.gain[order], baseline=record.baseline[order]
    )


def _names(leads: tuple[str, ...]) -> str:
    return ", ".join(leads)[:200]


def _with_detected_beats(record: Record, own_leads: tuple[str, ...]) -> Record:
    """Beats of the lead that shows them best by its name, from each stretch between the record's gaps."""
    from ecgray.databases.qrs import detect_beats  # sleepecg loads slowly and few ingests need it

    lead = lead_for_beats(own_leads)
    if lead is None:
        raise RecordRefused(f"beats are detected on ECG leads, and it has {_names(own_leads)} (without --detect-beats)")
    samples = record.signal.shape[1]
    found = [np.empty(0, np.int64)]
    for start, end in between(record.gaps, samples).tolist():
        signal_mv = (record.signal[lead, start:end] - record.baseline[lead]) / record.gain[lead]
        beats = np.asarray(detect_beats(signal_mv, record.fs), np.int64)
        found.append(beats[(beats >= 0) & (beats < end - start)] + start)
    beats = np.unique(np.concatenate(found))
    return replace(
        record,
        beats=beats,
        beat_classes=np.full(len(beats), BEATS.index("undefined"), np.uint8),
        attributes={**record.attributes, "beats": "detected"},
    )


def _with_remarks(record: Record, of_rate: dict[str, str]) -> Record:
    found = of_rate | dict(remarks(record))
    return replace(record, notes={**record.notes, **found}) if found else record
