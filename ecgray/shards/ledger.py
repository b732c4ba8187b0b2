"""What is known of one finished shard: a row per record, the refused ones, moments and file hashes."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ecgray.databases.record import BEATS, RHYTHMS, Record
from ecgray.errors import EcgrayError
from ecgray.shards.manifest import write_atomically
from ecgray.shards.moments import Moments

_KEY = b"ecgray"
_DIGEST = hashlib.sha256().digest_size

LEAD_SD = "lead_sd_mv"
"""Column that sets of before it was kept lack."""
GAPS = "gaps"
"""Column that sets of before gaps were kept lack: starts and ends in turn, in samples of the record."""
NOTES = "notes"
"""Attribute of a record that holds its notes (``ecgray.databases.notes``)."""


def schema(leads: int) -> pa.Schema:
    """Columns of records.parquet; the four annotation bounds index the arrays of the record's shard."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("patient", pa.string()),
            ("shard", pa.int32()),
            ("offset", pa.int64()),
            ("samples", pa.int64()),
            ("gain", pa.list_(pa.float64(), leads)),
            ("baseline", pa.list_(pa.float64(), leads)),
            ("annotated", pa.bool_()),
            ("labels", pa.list_(pa.string())),
            ("attributes", pa.string()),
            ("signal_hash", pa.string()),
            ("beat_start", pa.int64()),
            ("beat_end", pa.int64()),
            ("rhythm_start", pa.int64()),
            ("rhythm_end", pa.int64()),
            ("beat_counts", pa.list_(pa.int64(), len(BEATS))),
            ("rhythm_samples", pa.list_(pa.int64(), len(RHYTHMS))),
            ("requantisation_uv", pa.float64()),
            (LEAD_SD, pa.list_(pa.float64(), leads)),
            (GAPS, pa.list_(pa.int64())),
        ]
    )


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """One shard as the manifest and records.parquet need it; ``files`` is empty when every record was refused."""

    number: int
    table: pa.Table
    refused: list[tuple[str, str]]
    moments: Moments
    symbols: dict[str, int]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return shard_name(self.number)

    def notes(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Name and notes of each of its records that has any."""
        for record, text in zip(self.table["id"].to_pylist(), self.table["attributes"].to_pylist(), strict=True):
            if f'"{NOTES}"' in text and (own := notes_of(json.loads(text))):  # few records have any
                yield record, own

    def save(self, file: Path) -> None:
        """Atomically: the SHA-256 of what follows, then a Parquet file whose schema carries everything but the rows."""
        rest = {
            "number": self.number,
            "refused": self.refused,
            "moments": asdict(self.moments),
            "symbols": self.symbols,
            "files": self.files,
        }
        buffer = io.BytesIO()
        pq.write_table(self.table.replace_schema_metadata({_KEY: json.dumps(rest).encode()}), buffer)
        content = buffer.getvalue()
        write_atomically(file, hashlib.sha256(content).digest() + content)

    @classmethod
    def load(cls, file: Path) -> Ledger:
        """Raises EcgrayError for a file that is not, to the last bit, what ``save`` wrote."""
        content = file.read_bytes()
        digest, content = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            raise EcgrayError(f"'{file}' must be as it was written, got other bytes; run the same ingest again.")
        table = pq.read_table(io.BytesIO(content))
        rest = json.loads(table.schema.metadata[_KEY])
        rest["moments"] = Moments(**rest["moments"])
        rest["refused"] = [(record, reason) for record, reason in rest["refused"]]
        return cls(table=table.replace_schema_metadata(None), **rest)


def notes_of(attributes: Mapping[str, Any]) -> dict[str, str]:
    """The notes among a record's attributes; none where a database has an attribute of that name for something else."""
    found = attributes.get(NOTES)
    return {kind: str(what) for kind, what in found.items()} if isinstance(found, dict) else {}


def shard_name(number: int) -> str:
    return f"shard-{number:05d}"


def rows(records: Sequence[Record], moments: Sequence[Sequence[Moments]], number: int, leads: int) -> pa.Table:
    """The rows of records.parquet for the records of one shard, in their order on disk; ``moments``: of their leads."""

    def starts(lengths: list[int]) -> list[int]:
        return [0, *np.cumsum(lengths[:-1]).tolist()] if lengths else []

    samples = [record.signal.shape[1] for record in records]
    beats = [len(record.beats) for record in records]
    rhythms = [len(record.rhythms) for record in records]
    beat_start, rhythm_start = starts(beats), starts(rhythms)
    columns: dict[str, list[Any]] = {
        "id": [record.id for record in records],
        "patient": [record.patient for record in records],
        "shard": [number] * len(records),
        "offset": starts(samples),
        "samples": samples,
        "gain": [[float(value) for value in record.gain] for record in records],
        "baseline": [[float(value) for value in record.baseline] for record in records],
        "annotated": [bool(record.annotated) for record in records],
        "labels": [list(record.labels) for record in records],
        "attributes": [json.dumps(_plain(_with_notes(record)), sort_keys=True) for record in records],
        "signal_hash": [_sha256(record.signal) for record in records],
        "beat_start": beat_start,
        "beat_end": [start + count for start, count in zip(beat_start, beats, strict=True)],
        "rhythm_start": rhythm_start,
        "rhythm_end": [start + count for start, count in zip(rhythm_start, rhythms, strict=True)],
        "beat_counts": [np.bincount(record.beat_classes, minlength=len(BEATS)).tolist() for record in records],
        "rhythm_samples": [_rhythm_samples(record) for record in records],
        "requantisation_uv": [float(record.requantisation_uv) for record in records],
        LEAD_SD: [[lead.sd for lead in each] for each in moments],
        GAPS: [record.gaps.reshape(-1).tolist() for record in records],
    }
    return pa.table(columns, schema=schema(leads))


def _with_notes(record: Record) -> dict[str, Any]:
    return {**record.attributes, **({NOTES: dict(record.notes)} if record.notes else {})}


def _sha256(signal: npt.NDArray[np.int16]) -> str:
    return hashlib.sha256(np.ascontiguousarray(signal).data).hexdigest()


def symbols(records: Sequence[Record]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for record in records:
        total.update({str(symbol): int(count) for symbol, count in record.source_symbols.items()})
    return dict(sorted(total.items()))


def _rhythm_samples(record: Record) -> list[int]:
    zones = record.rhythms
    weights = (zones[:, 1] - zones[:, 0]).astype(np.float64)
    return np.bincount(zones[:, 2], weights=weights, minlength=len(RHYTHMS)).astype(np.int64).tolist()


def _plain(value: Any) -> Any:
    """JSON values of attributes; numpy scalars become Python's, and what is not a number becomes null."""
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
