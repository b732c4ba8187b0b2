"""Several shard sets of one sampling rate, seen as one table of records with their signals and annotations."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgray.databases.record import BEATS, RHYTHMS
from ecgray.errors import EcgrayError, quoted
from ecgray.shards.annotations import Annotations, Windows
from ecgray.shards.cache import RemoteFile
from ecgray.shards.leads import lead_order
from ecgray.shards.ledger import GAPS, LEAD_SD, schema
from ecgray.shards.manifest import Manifest, file_of, read_manifest, verify_files
from ecgray.shards.maps import Ints
from ecgray.shards.moments import Moments, merge
from ecgray.shards.signals import Signals
from ecgray.shards.storage import is_remote, join, resolve
from ecgray.shards.tables import read_table

_COLUMNS = ["patient", "shard", "offset", "samples", "gain", "baseline", "annotated"]
_BOUNDS = ["beat_start", "beat_end", "rhythm_start", "rhythm_end", "beat_counts", "rhythm_samples"]


def open_archive(paths: Sequence[str | Path], *, verify: Literal["sizes", "hashes"] = "sizes") -> Archive:
    """The shard sets of ``paths``, folders or URLs, as one archive, every file checked by its size, or by its SHA-256
    too (that of a remote file when it comes into the node's cache).

    Raises EcgrayError for a folder that holds no finished shard set, another schema version, a missing, truncated or
    changed file, and for sets that differ in sampling rate or leads (one lead alone may have any name).
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    if not paths:
        raise EcgrayError("Shard sets must be named, got none; pass the folder of one, made with 'ecgray ingest'.")
    resolved = tuple(resolve(path) for path in paths)
    if len(set(resolved)) < len(resolved):
        raise EcgrayError(f"Each shard set must be named once, got {', '.join(map(str, paths))}; leave out the second.")
    for path in resolved:
        verify_files(path, read_manifest(path), verify)
    return Archive(resolved)


@lru_cache(maxsize=8)
def _reopened(paths: tuple[str, ...], hashes: tuple[str, ...], leads: tuple[str, ...]) -> Archive:
    """The archive of a pickle: opened once per process, as long as its sets are the same."""
    archive = Archive(paths, leads)
    if tuple(manifest.hash for manifest in archive.manifests) != hashes:
        raise EcgrayError(f"{', '.join(paths)} must be the shard sets of the start, got others; start the run again.")
    return archive


class Archive:
    """A table of N records; a record's number, from 0 to N - 1, is its name everywhere.

    fs: Hz; leads: names, in the order of the first set unless another is asked for; shard: index over all sets' shards
    (N,); offset: first sample in the shard (N,); samples (N,); patient: codes unique over (database, patient) (N,);
    gain, baseline: float32 (N, leads), ADC units per mV and ADC units; annotated: bool (N,); beat_totals: (N,
    len(BEATS)); rhythm_samples: (N, len(RHYTHMS)); mean_mv, sd_mv: over all samples and leads of all sets. Made by
    ``open_archive``; pickles as its paths.
    """

    def __init__(self, paths: tuple[str, ...], leads: tuple[str, ...] | None = None) -> None:
        self.paths = paths
        self.manifests: tuple[Manifest, ...] = tuple(read_manifest(path) for path in paths)
        _one_rate(paths, self.manifests)
        self.fs: float = self.manifests[0].fs
        self.leads: tuple[str, ...] = leads or self.manifests[0].leads
        self._orders = orders = [
            _order(path, manifest.leads, self.leads) for path, manifest in zip(paths, self.manifests, strict=True)
        ]
        pooled = merge(
            Moments(m.samples * len(m.leads), m.mean_mv, m.sd_mv**2 * m.samples * len(m.leads)) for m in self.manifests
        )
        self.mean_mv, self.sd_mv = pooled.mean, pooled.sd
        tables = [
            _read(path, manifest, _COLUMNS + _BOUNDS) for path, manifest in zip(paths, self.manifests, strict=True)
        ]
        shards: list[tuple[str, Manifest, str]] = []  # set, its manifest, name of the shard
        lengths: list[int] = []
        numbers = []
        for path, manifest, table in zip(paths, self.manifests, tables, strict=True):
            names = [shard["name"] for shard in manifest.shards]
            # numbers in the table are those of the plan; a shard whose records were all refused does not exist
            lookup = np.full(1 + max(int(name.removeprefix("shard-")) for name in names), -1, np.int64)
            for place, name in enumerate(names, start=len(shards)):
                lookup[int(name.removeprefix("shard-"))] = place
            shard = _ints(table, "shard")
            if len(table) != manifest.records or shard.min() < 0 or shard.max() >= len(lookup):
                raise _not_of_the_set(path)
            numbers.append(lookup[shard])
            shards += [(path, manifest, name) for name in names]
            lengths += [shard["samples"] for shard in manifest.shards]
        self.shard: Ints = np.concatenate(numbers)
        self.offset, self.samples = (np.concatenate([_ints(t, name) for t in tables]) for name in ("offset", "samples"))
        self._beats, self._zones = (
            np.concatenate([np.stack([_ints(t, f"{kind}_start"), _ints(t, f"{kind}_end")], axis=1) for t in tables])
            for kind in ("beat", "rhythm")
        )
        self.gain, self.baseline = (
            np.concatenate(
                [_lists(t, name, len(order))[:, order] for t, order in zip(tables, orders, strict=True)]
            ).astype(np.float32)
            for name in ("gain", "baseline")
        )
        self.annotated: npt.NDArray[np.bool_] = np.concatenate([t["annotated"].to_numpy() for t in tables])
        self.beat_totals: Ints = np.concatenate([_lists(t, "beat_counts", len(BEATS)) for t in tables])
        self.rhythm_samples: Ints = np.concatenate([_lists(t, "rhythm_samples", len(RHYTHMS)) for t in tables])
        self.patient, self._patients = _patient_codes(tables, self.manifests)
        self._lengths = np.array(lengths, np.int64)
        self._check()
        order = np.repeat(np.array(orders, np.int64), [len(m.shards) for m in self.manifests], axis=0)
        self._signals = Signals(partial(_file, shards, name="signal.npy"), self._lengths, order)
        self._annotations = Annotations(
            partial(_file, shards), partial(_folder, shards), self._lengths, self._annotated_to
        )

    def _check(self) -> None:
        """Raise EcgrayError unless every record lies inside its shard: what is cut from the maps is never looked at
        again."""
        known = self.shard >= 0
        room = np.where(known, self._lengths[self.shard], 0)
        inside = (self.offset >= 0) & (self.samples > 0) & (self.samples <= room) & (self.offset <= room - self.samples)
        bounds = [(b[:, 0] >= 0) & (b[:, 0] <= b[:, 1]) for b in (self._beats, self._zones)]
        gain = np.isfinite(self.gain) & (self.gain != 0) & np.isfinite(self.baseline)
        right = known & inside & bounds[0] & bounds[1] & gain.all(axis=1)
        if not right.all():
            sets = np.repeat(np.arange(len(self.paths)), [manifest.records for manifest in self.manifests])
            raise _not_of_the_set(self.paths[sets[np.argmin(right)]])
        self._annotated_to = np.zeros((len(self._lengths), 2), np.int64)
        np.maximum.at(self._annotated_to, self.shard, np.stack([self._beats[:, 1], self._zones[:, 1]], axis=1))

    def __len__(self) -> int:
        return len(self.samples)

    def __reduce__(self) -> tuple[Callable[..., Archive], tuple[Any, ...]]:
        return _reopened, (self.paths, tuple(manifest.hash for manifest in self.manifests), self.leads)

    def in_order(self, leads: tuple[str, ...]) -> Archive:
        """The same records with their leads in the order of ``leads``; one lead keeps its own name.

        Raises EcgrayError for other leads.
        """
        if len(leads) == len(self.leads) == 1 or leads == self.leads:
            return self
        return Archive(self.paths, leads)

    @property
    def remote_bytes(self) -> int:
        """What the sets at URLs take when all of their files lie in the node's cache."""
        remote = (manifest for path, manifest in zip(self.paths, self.manifests, strict=True) if is_remote(path))
        return sum(file["bytes"] for manifest in remote for file in manifest.files.values())

    # columns that are read when first asked for

    @cached_property
    def record_id(self) -> npt.NDArray[np.object_]:
        """(N,) names of the records, as their database has them."""
        return self._column("id").to_numpy(zero_copy_only=False)

    @cached_property
    def database(self) -> npt.NDArray[np.object_]:
        """(N,) names of the records' databases."""
        names = np.array([manifest.database for manifest in self.manifests], object)
        return np.repeat(names, [manifest.records for manifest in self.manifests])

    @cached_property
    def signal_hash(self) -> npt.NDArray[np.object_]:
        """(N,) SHA-256 of each record's int16 samples, in hex: equal recordings in different sets are found by it."""
        return self._column("signal_hash").to_numpy(zero_copy_only=False)

    @cached_property
    def labels(self) -> list[tuple[str, ...]]:
        """N tuples of record labels."""
        return [tuple(labels) for labels in self._column("labels").to_pylist()]

    @cached_property
    def attributes(self) -> list[dict[str, Any]]:
        """N dictionaries of what else the database says of a record."""
        return [_attributes(text) for text in self._column("attributes").to_pylist()]

    @cached_property
    def gaps(self) -> Ints:
        """(k, 3): record, start, end (half-open, samples of the record) of every gap, ascending; none in sets that do
        not know them. The signal inside is interpolated: frames are taken beside it."""
        parts, first = [np.empty((0, 3), np.int64)], 0
        for path, manifest in zip(self.paths, self.manifests, strict=True):
            table = _read(path, manifest, ["samples"], more=GAPS)
            if GAPS in table.column_names:
                edges = table[GAPS].combine_chunks()
                count = pc.list_value_length(edges).to_numpy()
                ends = edges.flatten().to_numpy()
                number, length = np.repeat(np.arange(len(table)), count), _ints(table, "samples")
                # Each end lies above the one before in its record, and the last one inside it.
                first_of_record = np.diff(number, prepend=-1) > 0
                low = np.where(first_of_record, -1, np.roll(ends, 1))
                if (count % 2).any() or (ends <= low).any() or (ends > length[number]).any():
                    raise _not_of_the_set(path)
                pairs = ends.reshape(-1, 2)
                parts.append(np.column_stack([number[::2] + first, pairs]))
            first += len(table)
        return np.concatenate(parts)

    def in_gap(self, record: npt.ArrayLike, start: npt.ArrayLike, span: int) -> Ints:
        """(n,) samples of the windows of ``span`` from ``start`` on that lie in a gap of their record."""
        record, start = np.asarray(record, np.int64), np.asarray(start, np.int64)
        lost = np.zeros(len(record), np.int64)
        for number in np.intersect1d(record, self.gaps[:, 0]):
            here = record == number
            gaps = self.gaps[self.gaps[:, 0] == number, 1:]
            low, high = start[here, None], start[here, None] + span
            lost[here] = np.maximum(np.minimum(high, gaps[:, 1]) - np.maximum(low, gaps[:, 0]), 0).sum(axis=1)
        return lost

    @property
    def patient_names(self) -> list[str]:
        """Patient of each code, as its database names them."""
        return [patient for _, patient in self._patients]

    def lead_sd_mv(self) -> npt.NDArray[np.float64]:
        """(N, leads) standard deviation of each lead of each record; NaN in sets that do not know it."""
        parts = []
        for path, manifest, order in zip(self.paths, self.manifests, self._orders, strict=True):
            table = _read(path, manifest, ["samples"], more=LEAD_SD)
            known = LEAD_SD in table.column_names
            unknown = np.full((len(table), len(order)), np.nan)
            parts.append(_lists(table, LEAD_SD, len(order))[:, order] if known else unknown)
        return np.concatenate(parts)

    def _column(self, name: str) -> pa.Array:
        sets = zip(self.paths, self.manifests, strict=True)
        return pa.concat_arrays([_read(path, manifest, [name])[name].combine_chunks() for path, manifest in sets])

    # signals

    def cut(
        self,
        record: npt.ArrayLike,
        start: npt.ArrayLike,
        span: int,
        out: npt.NDArray[np.int16] | None = None,
    ) -> npt.NDArray[np.int16]:
        """Frames (n, leads, span) int16 from ``start`` (n,) on in the records ``record`` (n,), in that order.

        Raises IndexError when a frame leaves its record. ``out`` costs a second copy; without it there is one.
        """
        record, start = np.asarray(record, np.int64), np.asarray(start, np.int64)
        if len(start) and (start.min() < 0 or (start + span > self.samples[record]).any()):
            raise IndexError(f"a frame of {span} samples leaves its record")
        return self._signals.cut(self.shard[record], self.offset[record] + start, span, out)

    def signal_mv(self, record: int) -> npt.NDArray[np.float32]:
        """The whole record in mV, (leads, samples)."""
        signal = self.cut([record], [0], int(self.samples[record]))[0]
        return (signal - self.baseline[record][:, None]) / self.gain[record][:, None]

    # annotations

    def beats(self, record: int) -> tuple[Ints, npt.NDArray[np.uint8]]:
        """Samples of the record's beats, ascending, and their classes (indices into BEATS)."""
        first, last = self._beats[record]
        beats, classes = self._annotations.beats(int(self.shard[record]), int(first), int(last))
        return beats - self.offset[record], classes

    def rhythms(self, record: int) -> Ints:
        """(m, 3): start, end (half-open, samples of the record) and class (index into RHYTHMS) of its rhythms."""
        first, last = self._zones[record]
        zones = self._annotations.zones(int(self.shard[record]), int(first), int(last))
        return zones - [self.offset[record], self.offset[record], 0]

    def provenance(self, record: npt.ArrayLike, start: npt.ArrayLike) -> list[tuple[str, str, str, int]]:
        """(database, patient, record id, start) of each frame."""
        record = np.asarray(record, np.int64)
        patients = [self._patients[code] for code in self.patient[record].tolist()]
        starts = np.asarray(start, np.int64).tolist()
        return [(*who, name, s) for who, name, s in zip(patients, self.record_id[record].tolist(), starts, strict=True)]

    def beat_counts(
        self, record: npt.ArrayLike, start: npt.ArrayLike, end: npt.ArrayLike, *, skip_first: bool = False
    ) -> Ints:
        """(n, len(BEATS)) beats per class in the windows [start, end); ``skip_first`` leaves out each one's first."""
        return self._annotations.beat_counts(self._windows(record, start, end), skip_first)

    def beat_extent(
        self, record: npt.ArrayLike, start: npt.ArrayLike, end: npt.ArrayLike
    ) -> tuple[Ints, Ints, Ints, Ints]:
        """(count, first, second, last): beats of any class in the windows [start, end), and samples of the first,
        second and last one in their record; -1 where there is none."""
        extent = self._annotations.beat_extent(self._windows(record, start, end))
        offset = self.offset[np.asarray(record, np.int64)]
        first, second, last = (np.where(extent[:, i] < 0, -1, extent[:, i] - offset) for i in (1, 2, 3))
        return extent[:, 0], first, second, last

    def rhythm_durations(self, record: npt.ArrayLike, start: npt.ArrayLike, end: npt.ArrayLike) -> Ints:
        """(n, len(RHYTHMS)) samples of the windows [start, end) in each rhythm; time in no zone counts in none."""
        return self._annotations.rhythm_durations(self._windows(record, start, end))

    def rhythm_durations_by_beat(self, record: npt.ArrayLike, start: npt.ArrayLike, end: npt.ArrayLike) -> Ints:
        """(n, len(RHYTHMS)) samples of the windows [start, end) when every beat carries the rhythm of its zone
        (undefined outside zones) back to the beat before; the record's last beat carries it on to the window's end
        too, and a window after that beat is undefined (papers.md W6, W23)."""
        return self._annotations.rhythm_durations_by_beat(self._windows(record, start, end))

    def _windows(self, record: npt.ArrayLike, start: npt.ArrayLike, end: npt.ArrayLike) -> Windows:
        """Windows [start, end) of records as windows of shards, cut where the record ends."""
        record = np.asarray(record, np.int64)
        offset, samples = self.offset[record], self.samples[record]
        begin, finish = (offset + np.clip(np.asarray(edge, np.int64), 0, samples) for edge in (start, end))
        first, last = self._beats[record].T
        return Windows(self.shard[record], begin, finish, first, last)


def _file(shards: Sequence[tuple[str, Manifest, str]], shard: int, name: str) -> Path | RemoteFile:
    path, manifest, folder = shards[shard]
    return file_of(path, manifest, f"{folder}/{name}")


def _folder(shards: Sequence[tuple[str, Manifest, str]], shard: int) -> str:
    path, _, folder = shards[shard]
    return join(path, folder)


def _not_of_the_set(path: str) -> EcgrayError:
    return EcgrayError(
        f"'{path}/records.parquet' must list the records that lie in the set's shards, got others; "
        "copy the shard set again or ingest again."
    )


def _one_rate(paths: Sequence[str], manifests: Sequence[Manifest]) -> None:
    """Raise EcgrayError unless all sets have one sampling rate."""
    for path, manifest in zip(paths, manifests, strict=True):
        if manifest.fs != manifests[0].fs:
            raise EcgrayError(
                f"Shard sets must be of one sampling rate, got {manifests[0].fs:g} Hz in '{paths[0]}' and "
                f"{manifest.fs:g} Hz in '{path}'; ingest one of them again with '--fs'."
            )


def _order(path: str, given: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where each lead stands in the shards of a set. Raises EcgrayError for other leads."""
    order = lead_order(given, wanted)
    if order is None:
        got, needed = (quoted(", ".join(leads), 200) for leads in (given, wanted))
        raise EcgrayError(
            f"The leads of '{path}' must be {needed} (in any order), got {got}; ingest the same leads, or use the set "
            "in runs of its own."
        )
    return order


def _read(path: str, manifest: Manifest, columns: list[str], more: str | None = None) -> pa.Table:
    """Columns of the set's records; ``more`` too, where the set has it."""
    wanted = schema(len(manifest.leads))
    chosen = pa.schema([wanted.field(name) for name in columns])
    file = file_of(path, manifest, "records.parquet")
    advice = "copy the shard set again or ingest again"
    optional = None if more is None else (more, wanted.field(more).type)
    if isinstance(file, Path):
        return read_table(file, chosen, more=optional, advice=advice)
    with file.open() as stream:
        return read_table(stream, chosen, more=optional, name=file, advice=advice)


def _attributes(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise EcgrayError(f"A record's attributes must be a JSON object, got {quoted(text, 60)}; ingest again.")
    return values


def _ints(table: pa.Table, name: str) -> Ints:
    return table[name].to_numpy().astype(np.int64, copy=False)


def _lists(table: pa.Table, name: str, width: int) -> npt.NDArray[Any]:
    return pc.list_flatten(table[name]).to_numpy().reshape(-1, width)


def _patient_codes(
    tables: Sequence[pa.Table], manifests: Sequence[Manifest]
) -> tuple[npt.NDArray[np.int32], list[tuple[str, str]]]:
    """Code of each record's patient, and (database, patient) of each code, in order of first appearance."""
    known: dict[tuple[str, str], int] = {}
    codes = []
    for table, manifest in zip(tables, manifests, strict=True):
        encoded = table["patient"].combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        lookup = np.array([known.setdefault((manifest.database, name), len(known)) for name in names], np.int32)
        codes.append(lookup[encoded.indices.to_numpy()])
    return np.concatenate(codes), list(known)
