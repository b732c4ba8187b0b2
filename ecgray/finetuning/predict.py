"""What a finetuning run says of recordings, with or without labels: WFDB files as they lie, or a shard set."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgray.databases import notes
from ecgray.databases.ecg_leads import find_lead
from ecgray.databases.layouts import no_record, other_layout, require_folder
from ecgray.databases.record import RecordRefused, Reference
from ecgray.databases.walk import LABELS, record_of, walk
from ecgray.databases.wfdb_files import read_record
from ecgray.databases.wfdb_header import MAX_VALUES, read_header
from ecgray.errors import EcgrayError, counted
from ecgray.finetuning.evaluate import finished_run, stored_preprocessing
from ecgray.finetuning.labelled import listed
from ecgray.finetuning.prepare import MOST_IN_GAPS, Preprocessing, at_rate, to_length
from ecgray.finetuning.seed_run import predict as probabilities
from ecgray.finetuning.stored import PROBABILITY
from ecgray.progress import Progress, announce
from ecgray.shards.archive import Archive, open_archive
from ecgray.shards.leads import lead_order, same_lead
from ecgray.shards.ledger import notes_of
from ecgray.shards.manifest import NAME, write_atomically
from ecgray.shards.moments import lead_moments
from ecgray.shards.prepare import Target
from ecgray.shards.prepare import prepare as checked
from ecgray.shards.remarks import set_remarks
from ecgray.shards.resample import LARGEST_TERM, resampling_ratio
from ecgray.shards.storage import is_remote, resolve, size_of, write_bytes
from ecgray.training.distributed import best_device
from ecgray.training.threads import threads

Signal = npt.NDArray[np.float32]

log = logging.getLogger(__name__)


@threads()
def predict(
    run: Path | str,
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    lead: str | None = None,
    show_progress: bool = True,
) -> pd.DataFrame:
    """Write what the finished seeds of ``run`` say of the records at ``paths`` to ``out``, .csv or .parquet, whole or
    not at all; returns the table: record, start_s, end_s, predicted, probability_<class>..., refused.

    paths: WFDB records (with or without .hea) and folders of them, or one shard set alone. A record of a folder bears
    its path below it, others their file's name. Labels and annotations are not read, and nothing is asked about
    records that the run was trained on: ``evaluate`` is for scores.

    Probabilities are the mean over seeds, and the preprocessing is that of ``evaluate``, whose probabilities these are.
    Leads are found by their names (one alone may have any); ``lead`` names the one to take of every record for a
    network of one lead. A record at another rate is resampled, a shorter one than the network's input padded as in
    training. A longer one gives a row for each of its consecutive windows of that length, from ``start_s`` to
    ``end_s`` in seconds; the last window ends where the record ends, and overlaps the one before where the length does
    not divide.

    A window of which more than half lies in gaps of its record has the reason in ``refused`` and no class. A record
    that cannot be used has one row with the reason in ``refused`` and nothing else. Raises EcgrayError, with nothing
    written, where that is every record, for an ``out`` that is there, and for a run without a finished seed. What is to
    be remarked of the records is said in one line per kind.
    """
    suffix = Path(out).suffix
    if suffix not in (".csv", ".parquet"):
        raise EcgrayError(f"Predictions must go into a .csv or .parquet file, got {out}; give another --out.")
    out = resolve(out) if is_remote(out) else Path(out).expanduser().absolute()
    if size_of(out) is not None if isinstance(out, str) else out.exists():
        raise EcgrayError(f"Predictions must go into a new file, got {out}, which is there; give another --out.")
    finished = finished_run(run)
    description, how = finished.description, stored_preprocessing(finished.description)
    if lead is not None and len(description.leads) > 1:
        raise EcgrayError(
            f"A lead can be chosen for a network of one lead, got {lead} for {', '.join(description.leads)}; leave out "
            "--lead."
        )
    sources, remarked = _sources(paths, description.leads, lead), _Remarked({}, [])
    seeds = len(finished.seeds)
    announce(
        show_progress,
        f"predict {counted(len(sources), 'record')} with {counted(seeds, 'seed')} of {finished.place}, on "
        f"{best_device()}; writes to {out}",
    )
    if isinstance(out, Path):
        out.parent.mkdir(parents=True, exist_ok=True)

    def mean(windows: list[Signal]) -> Signal:
        signals, rows = np.stack(windows), np.arange(len(windows))
        every = [probabilities(network, signals, rows, finished.config) for network in finished.networks]
        return np.asarray(np.mean(every, axis=0, dtype=np.float64), np.float32)

    rows: list[dict[str, Any]] = []
    waiting: list[Signal] = []
    parts: list[Signal] = []
    with Progress("predict", len(sources), "record", show=show_progress) as progress:
        for row, window in _windows(sources, how, remarked, progress):
            rows.append(row)
            if window is not None:
                waiting.append(window)
            if len(waiting) == 2 * finished.config.protocol.batch_size:
                parts.append(mean(waiting))
                waiting = []
    if waiting:
        parts.append(mean(waiting))
    table = _table(rows, parts, description.classes)
    if not parts:
        raise EcgrayError(f"A record must be one that can be used, got {summary(table)}")
    content = table.to_parquet(index=False) if suffix == ".parquet" else table.to_csv(index=False).encode()
    if isinstance(out, str):
        write_bytes(out, content)
    else:
        write_atomically(out, content)
    for line in (*notes.lines(remarked.notes.items(), len(sources)), *remarked.of_leads(description.leads)):
        log.warning("%s", line)
    return table


def summary(table: pd.DataFrame) -> str:
    """How many records of ``predict``'s table were predicted, which were refused and why, and how many windows of the
    others have no class, in one line."""
    refused = table[table["refused"].notna()]
    whole, window = refused[refused["start_s"].isna()], refused[refused["start_s"].notna()]
    count = table["record"].nunique()
    reasons = [f"{record} ({reason})" for record, reason in zip(whole["record"], whole["refused"], strict=True)]
    more = f"; {len(whole)} refused: {listed(reasons, 5)}" if reasons else ""
    if len(window):
        places = [f"{name} from {start:g} s" for name, start in zip(window["record"], window["start_s"], strict=True)]
        more += f"; {counted(len(window), 'window')} without a class, mostly in gaps: {listed(places, 5)}"
    return f"{count - len(whole)} of {count} records{more}"


@dataclass(frozen=True)
class _Recording:
    """signal: int16 (leads, samples) at ``fs`` Hz, leads in the network's order; gain, baseline: float32 (leads,), ADC
    units per mV and ADC units, as a shard set has them; gaps, notes: as of a Record."""

    fs: float
    signal: npt.NDArray[np.int16]
    gain: Signal
    baseline: Signal
    gaps: npt.NDArray[np.int64]
    notes: Mapping[str, str]


@dataclass(frozen=True)
class _Remarked:
    """Notes of the records that were read, and (leads,) standard deviations of each in mV."""

    notes: dict[str, Mapping[str, str]]
    sd_mv: list[list[float]]

    def add(self, name: str, recording: _Recording) -> None:
        self.notes[name] = recording.notes
        gain, baseline = recording.gain.astype(np.float64), recording.baseline.astype(np.float64)
        moments = lead_moments(recording.signal, gain, baseline, recording.gaps)
        self.sd_mv.append([lead.sd for lead in moments])

    def of_leads(self, leads: tuple[str, ...]) -> list[str]:
        return set_remarks(leads, np.array(self.sd_mv))


_Read = Callable[[], _Recording]
"""Raises RecordRefused."""


def _windows(
    sources: Sequence[tuple[str, _Read]],
    how: Preprocessing,
    remarked: _Remarked,
    progress: Progress,
) -> Iterator[tuple[dict[str, Any], Signal | None]]:
    """A row of the table and the network's input (leads, how.length_samples), or the reason in the row and None; each
    record is added to ``remarked``."""
    length = how.length_samples
    for number, (name, read) in enumerate(sources):
        progress.to(number)
        try:
            recording = read()
            signal = _at_rate(recording, how)
        except RecordRefused as reason:
            yield {"record": name, "refused": " ".join(str(reason).split())}, None
            continue
        remarked.add(name, recording)
        lost_s = recording.gaps / recording.fs
        samples = signal.shape[-1]
        last = max(samples - length, 0)
        for start in (*range(0, last, length), last):
            end = min(start + length, samples)
            row: dict[str, Any] = {"record": name, "start_s": start / how.fs, "end_s": end / how.fs}
            overlap = np.minimum(row["end_s"], lost_s[:, 1]) - np.maximum(row["start_s"], lost_s[:, 0])
            share = np.maximum(overlap, 0).sum() * how.fs / (end - start)
            if share > MOST_IN_GAPS:
                yield row | {"refused": f"{share:.0%} of the window is missing"}, None
            else:
                yield row, to_length(signal[:, start:end], how)


def _at_rate(recording: _Recording, how: Preprocessing) -> Signal:
    ratio, (leads, samples) = resampling_ratio(recording.fs, how.fs), recording.signal.shape
    if max(ratio.as_integer_ratio()) > LARGEST_TERM or samples * ratio * leads > MAX_VALUES:
        raise RecordRefused(
            f"{samples} samples at {recording.fs:.9g} Hz cannot be brought to {how.fs:.9g} Hz by a bounded filter;"
            " correct the header's rate, or ingest it with --fs"
        )
    try:
        return at_rate(recording.signal[None], recording.gain[None], recording.baseline[None], recording.fs, how)[0]
    except MemoryError:
        raise RecordRefused(f"its {samples} samples do not fit into this machine's memory; cut it in two") from None


def _table(rows: list[dict[str, Any]], parts: list[Signal], classes: tuple[str, ...]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["record", "start_s", "end_s", "refused"])
    refused = table.pop("refused").astype("str")
    right = refused.isna().to_numpy()
    probability = np.full((len(table), len(classes)), np.nan, np.float32)
    if parts:
        probability[right] = np.concatenate(parts)
    predicted = np.asarray(classes, object)[np.where(right[:, None], probability, 0).argmax(1)]
    table["predicted"] = pd.Series(np.where(right, predicted, None), dtype="str")
    for index, name in enumerate(classes):
        table[f"{PROBABILITY}{name}"] = probability[:, index]
    return table.assign(refused=refused)


def _sources(paths: Sequence[Path | str], leads: tuple[str, ...], lead: str | None) -> list[tuple[str, _Read]]:
    """Name and reader of every record at ``paths``, each once. Raises EcgrayError for what cannot be one or several."""
    sets = [path for path in paths if is_remote(path) or (Path(path).expanduser() / NAME).is_file()]
    if not paths or (sets and len(paths) > 1):
        got = f"{len(paths)} places, {sets[0]} of them" if sets else "none"
        raise EcgrayError(
            f"What is predicted must be WFDB records and folders of them, or one shard set alone, got {got}; give it."
        )
    if sets:
        archive = open_archive(sets, verify="hashes")
        try:
            order = _order(archive.leads, leads, lead)
        except RecordRefused as reason:
            raise EcgrayError(f"The leads of {sets[0]} must be the network's, got others: {reason}.") from None
        return [(name, partial(_from_archive, archive, i, order)) for i, name in enumerate(archive.record_id)]
    found: dict[Path, str] = {}
    for path in (Path(path).expanduser() for path in paths):
        if path.is_dir():
            require_folder(path, "Records")
            listing = walk(path, tables=re.escape(LABELS))
            below = listing.headers
            if not below:
                raise other_layout(path, "folder", "WFDB headers (.hea), in it or below it", listing)
            for line in listing.remarks():
                log.warning("%s", line)
            named = [(file, file.relative_to(path).as_posix()) for file in below]
        else:
            named = [(record_of(path), record_of(path).name)]
        for file, name in named:
            found.setdefault(file.absolute(), name.encode("utf-8", "backslashreplace").decode())
    files: dict[str, Path] = {}
    for file, name in found.items():
        if files.setdefault(name, file) is not file:
            raise EcgrayError(
                f"Each record must have a name of its own, got '{name}' twice, in {files[name].parent} and "
                f"{file.parent}; give the folder above them."
            )
    return [(name, partial(_from_files, file, name, leads, lead)) for name, file in files.items()]


def _from_archive(archive: Archive, number: int, order: list[int]) -> _Recording:
    signal = archive.cut([number], [0], int(archive.samples[number]))[0]
    gaps = archive.gaps[archive.gaps[:, 0] == number, 1:]
    gain, baseline = archive.gain[number][order], archive.baseline[number][order]
    return _Recording(archive.fs, signal[order], gain, baseline, gaps, notes_of(archive.attributes[number]))


def _from_files(path: Path, name: str, leads: tuple[str, ...], lead: str | None) -> _Recording:
    reference = Reference(record=name, patient=name, path=path)
    if (reason := no_record(path)) is not None:
        raise RecordRefused(reason)
    try:
        header = read_header(path)
        chosen = _by_name(header.names, leads) if lead is None else (lead,)
        record = read_record(reference, "folder", leads=chosen, annotators=None, header=header)
        record = checked(record, Target(fs=record.fs, leads=record.leads))
    except RecordRefused:
        raise
    except Exception as error:  # whatever it trips over in a broken file is this record's reason, as in an ingest
        raise RecordRefused(f"unreadable ({type(error).__name__}: {error})") from error
    order = _order(record.leads, leads, lead)
    gain, baseline = (values[order].astype(np.float32) for values in (record.gain, record.baseline))
    return _Recording(record.fs, record.signal[order], gain, baseline, record.gaps, record.notes)


def _by_name(given: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The network's leads where the record has each of them, so that what its other signals lack does not matter; else
    none, which reads every lead."""
    try:
        places = {find_lead(given, name) for name in wanted}
    except RecordRefused:
        return ()
    return wanted if len(places) == len(wanted) else ()


def _order(given: tuple[str, ...], wanted: tuple[str, ...], lead: str | None) -> list[int]:
    """Where the network's leads stand among ``given``; those beside them are left out."""
    if lead is not None:
        return [find_lead(given, lead)]
    order = lead_order(given, wanted)
    if order is None:
        there = [i for i, name in enumerate(given) if any(same_lead(name, one) for one in wanted)]
        order = lead_order([given[i] for i in there], wanted)
        order = None if order is None or not there else [there[i] for i in order]
    if order is None:
        advice = "; choose one with --lead" if len(wanted) == 1 else ""
        raise RecordRefused(f"its leads are {', '.join(given)[:200]}, the network's {', '.join(wanted)[:200]}{advice}")
    return order
