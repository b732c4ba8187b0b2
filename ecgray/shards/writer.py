"""Shards to disk: into ``shard-00000.partial-<id>``, fsync, rename; the manifest last."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgray.databases.record import BEATS, RHYTHMS, Record, RecordRefused
from ecgray.errors import EcgrayError
from ecgray.shards import ledger as ledgers
from ecgray.shards.ledger import Ledger, shard_name
from ecgray.shards.manifest import (
    NAME,
    SCHEMA,
    SOFTWARE,
    Manifest,
    file_sha256,
    fsync_folder,
    replaced,
    write_atomically,
)
from ecgray.shards.moments import lead_moments, merge
from ecgray.shards.prepare import Target, prepare
from ecgray.shards.progress import why


def write_shard(
    out: Path, number: int, records: Sequence[Record], refused: Sequence[tuple[str, str]], leads: int
) -> Ledger:
    """Write one shard whole under a temporary name; ``publish_shard`` gives it its own. Records must be prepared."""
    files: dict[str, dict[str, Any]] = {}
    moments = [lead_moments(record.signal, record.gain, record.baseline, record.gaps) for record in records]
    if records:
        folder = partial_folder(out, number)
        folder.mkdir(parents=True)
        offsets = np.cumsum([0] + [record.signal.shape[1] for record in records])
        arrays: dict[str, npt.NDArray[Any]] = {
            "signal.npy": np.concatenate([record.signal for record in records], axis=1, dtype=np.int16),
            "beats.npy": np.concatenate(
                [record.beats + offset for record, offset in zip(records, offsets[:-1], strict=True)], dtype=np.int64
            ),
            "beat_class.npy": np.concatenate([record.beat_classes for record in records], dtype=np.uint8),
            "rhythms.npy": np.concatenate(
                [
                    np.add(record.rhythms, (offset, offset, 0))
                    for record, offset in zip(records, offsets[:-1], strict=True)
                ],
                dtype=np.int64,
            ),
        }
        for name, array in arrays.items():
            files[f"{shard_name(number)}/{name}"] = _save(folder / name, array)
        fsync_folder(folder)
    return Ledger(
        number=number,
        table=ledgers.rows(records, moments, number, leads),
        refused=list(refused),
        moments=merge(merge(each) for each in moments),
        symbols=ledgers.symbols(records),
        files=files,
    )


def partial_folder(out: Path, number: int) -> Path:
    """The temporary folder of a shard, different in every process and every attempt."""
    return out / f"{shard_name(number)}.partial-{_ATTEMPT}-{os.getpid()}"


_ATTEMPT = uuid.uuid4().hex[:12]


def publish_shard(out: Path, ledger: Ledger) -> None:
    """Rename a written shard to its own name, in place of an earlier one."""
    if not ledger.files:
        return
    final = out / ledger.name
    while True:
        shutil.rmtree(final, ignore_errors=True)
        try:
            os.rename(partial_folder(out, ledger.number), final)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # else a task of a dead ingest has just put the same shard there
    fsync_folder(out)


def finish(
    out: Path, finished: Sequence[Ledger], *, database: str, licence: str, target: Target, settings: Mapping[str, Any]
) -> Manifest:
    """Write records.parquet, refused.csv and, last, manifest.json over the shards of ``finished``."""
    finished = sorted(finished, key=lambda shard: shard.number)
    table = pa.concat_tables(shard.table for shard in finished).combine_chunks()
    refused = [entry for shard in finished for entry in shard.refused]
    if not table.num_rows:
        raise EcgrayError(f"A shard set must hold a record, got none usable; {why(refused)}.")
    pooled = merge(shard.moments for shard in finished)
    files: dict[str, dict[str, Any]] = {}
    for shard in finished:
        files |= shard.files
    symbols: Counter[str] = Counter()
    for shard in finished:
        symbols.update(shard.symbols)
    files["records.parquet"] = _write_table(out / "records.parquet", table)
    files["refused.csv"] = write_atomically(out / "refused.csv", _refused_csv(refused))
    samples = pc.sum(table["samples"]).as_py()
    beats = _totals(table["beat_counts"], len(BEATS))
    rhythms = _totals(table["rhythm_samples"], len(RHYTHMS))
    labels = pc.value_counts(pc.list_flatten(table["labels"])).to_pylist()
    manifest = Manifest(
        schema=SCHEMA,
        ecgray=SOFTWARE,
        database=database,
        licence=licence,
        fs=target.fs,
        leads=target.leads,
        records=table.num_rows,
        patients=pc.count_distinct(table["patient"]).as_py(),
        samples=samples,
        hours=samples / target.fs / 3600,
        mean_mv=pooled.mean,
        sd_mv=pooled.sd,
        annotated=pc.sum(table["annotated"]).as_py(),
        beats=dict(zip(BEATS, beats, strict=True)),
        rhythm_seconds={name: n / target.fs for name, n in zip(RHYTHMS, rhythms, strict=True)},
        labels={entry["values"]: entry["counts"] for entry in sorted(labels, key=lambda entry: entry["values"])},
        symbols=dict(sorted(symbols.items())),
        refused=len(refused),
        requantised=pc.sum(pc.greater(table["requantisation_uv"], 0)).as_py(),
        requantisation_uv=pc.max(table["requantisation_uv"]).as_py(),
        ingest=dict(settings),
        shards=tuple(
            {
                "name": shard.name,
                "records": shard.table.num_rows,
                "samples": pc.sum(shard.table["samples"]).as_py(),
            }
            for shard in finished
            if shard.files
        ),
        files=dict(sorted(files.items())),
    )
    write_atomically(out / NAME, manifest.to_json().encode())
    return manifest


def write_shard_set(
    records: Iterable[Record], out: Path | str, *, shard_mb: float = 128, settings: Mapping[str, Any] | None = None
) -> Manifest:
    """A shard set from records in memory, in this process; patients are brought side by side.

    The first record fixes rate and leads; records that do not fit are refused with a reason. Raises EcgrayError when
    ``out`` holds a shard set already, or when no record is usable.
    """
    out = Path(out)
    if (out / NAME).exists():
        raise EcgrayError(f"'{out}' must not hold a shard set yet, got a finished one; choose another folder.")
    given = sorted(records, key=lambda record: (record.patient, record.id))
    if not given:
        raise EcgrayError("A shard set must hold at least one record, got none; pass records to write.")
    target = Target(fs=given[0].fs, leads=given[0].leads)
    out.mkdir(parents=True, exist_ok=True)
    finished: list[Ledger] = []
    batch: list[Record] = []
    refused: list[tuple[str, str]] = []

    def flush() -> None:
        shard = write_shard(out, len(finished), batch, refused, len(target.leads))
        publish_shard(out, shard)
        finished.append(shard)
        batch.clear()
        refused.clear()

    size = 0
    for record in given:
        if batch and record.patient != batch[-1].patient and size >= shard_mb * 1e6:
            flush()
            size = 0
        try:
            batch.append(prepare(record, target))
            size += record.signal.nbytes
        except RecordRefused as reason:
            refused.append((record.id, str(reason)))
    flush()
    return finish(
        out,
        finished,
        database=given[0].database,
        licence="",
        target=target,
        settings=settings or {},
    )


def _save(file: Path, array: npt.NDArray[Any]) -> dict[str, Any]:
    """Write an .npy file and hash it on the way out."""
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    digest = hashlib.sha256(header.getvalue())
    with file.open("wb") as stream:
        stream.write(header.getvalue())
        if array.size:
            content = array.reshape(-1).view(np.uint8).data
            digest.update(content)
            stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def _write_table(file: Path, table: pa.Table) -> dict[str, Any]:
    with replaced(file) as stream:
        pq.write_table(table, stream, compression="zstd", row_group_size=65536)
    return {"bytes": file.stat().st_size, "sha256": file_sha256(file)}


def _refused_csv(refused: Sequence[tuple[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("record", "reason"))
    writer.writerows(refused)
    return text.getvalue().encode("utf-8", "backslashreplace")  # the name of a file need not be UTF-8


def _totals(column: pa.ChunkedArray, width: int) -> list[int]:
    values = pc.list_flatten(column).to_numpy().reshape(-1, width)
    return values.sum(axis=0).tolist()
