"""What shard sets hold, as numbers."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ecgray.databases.notes import lines
from ecgray.databases.record import BEATS, RHYTHMS
from ecgray.errors import EcgrayError
from ecgray.shards.amplitudes import far_off
from ecgray.shards.archive import Archive, open_archive
from ecgray.shards.cache import RemoteFile
from ecgray.shards.ledger import notes_of
from ecgray.shards.manifest import Manifest, file_of
from ecgray.shards.remarks import set_remarks


def summary(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Counts over the shard sets ``paths``, as plain JSON values.

    records, patients, hours, fs, leads, beats {class: n}, rhythm_seconds {class: s}, labels {label: n}, label_versions
    {database: version, of those that have several}, mean_mv, sd_mv (pooled over all samples and leads), far_off
    [{record, lead, sd_mv, median_mv}] (None where a set does not know it), gaps {records, seconds}, notes [one line per
    kind of remark], refused [{record, reason}]. Raises EcgrayError as ``open_archive`` does.
    """
    archive = open_archive(paths, verify="hashes")
    sd_mv = archive.lead_sd_mv()
    far = far_off(sd_mv, archive.leads, lambda number: str(archive.record_id[number]))
    beats: Counter[str] = Counter()
    rhythms: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    for manifest in archive.manifests:
        beats.update(manifest.beats)
        rhythms.update(manifest.rhythm_seconds)
        labels.update(manifest.labels)
    return {
        "records": len(archive),
        "patients": len(archive.patient_names),
        "hours": sum(manifest.hours for manifest in archive.manifests),
        "fs": archive.fs,
        "leads": list(archive.leads),
        "beats": {name: beats[name] for name in BEATS},
        "rhythm_seconds": {name: float(rhythms[name]) for name in RHYTHMS},
        "labels": dict(sorted(labels.items())),
        "label_versions": label_versions(archive.manifests),
        "mean_mv": archive.mean_mv,
        "sd_mv": archive.sd_mv,
        "far_off": None if np.isnan(sd_mv).any() else [asdict(each) for each in far],
        "gaps": {
            "records": len(np.unique(archive.gaps[:, 0])),
            "seconds": float(np.diff(archive.gaps[:, 1:]).sum() / archive.fs),
        },
        "notes": [
            *lines(notes_by_record(archive), len(archive)),
            *set_remarks(archive.leads, sd_mv),
        ],
        "refused": [
            entry
            for path, manifest in zip(archive.paths, archive.manifests, strict=True)
            for entry in read_refused(file_of(path, manifest, "refused.csv"))
        ],
    }


def notes_by_record(archive: Archive) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and notes of each record."""
    return ((str(name), notes_of(own)) for name, own in zip(archive.record_id, archive.attributes, strict=True))


def label_versions(manifests: Sequence[Manifest]) -> dict[str, str]:
    """By database, which version of its labels was asked for where it has several; of sets that differ "v2, v3"."""
    found: dict[str, set[str]] = {}
    for manifest in manifests:
        database = manifest.ingest.get("database")
        version = database.get("labels") if isinstance(database, dict) else None
        if isinstance(version, str):
            found.setdefault(manifest.database, set()).add(version)
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}


def read_refused(file: Path | RemoteFile) -> list[dict[str, str]]:
    """Record and reason of each refused record: the refused.csv of a shard set."""
    try:
        with file.open("rb") as stream, io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
            return [{"record": row["record"] or "", "reason": row["reason"] or ""} for row in csv.DictReader(text)]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise EcgrayError(f"'{file}' must be a table of record,reason ({error}); ingest again.") from error
