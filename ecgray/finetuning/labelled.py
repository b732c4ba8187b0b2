"""The records of shard sets as tables: labelled ones to learn from, and those that a run has seen already."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from ecgray.errors import EcgrayError
from ecgray.finetuning.prepare import mostly_in_gaps
from ecgray.shards.archive import Archive, open_archive

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledSet:
    """A shard set and its records that carry exactly one label.

    records: columns index (in the archive), database, record, patient, label (what it counts as), signal_hash;
    left_out: how many records of the set carry no label, several, or one that is left out; own_labels: those that its
    records carry themselves.
    """

    archive: Archive
    records: pd.DataFrame
    left_out: int
    own_labels: frozenset[str]


def record_names(archive: Archive) -> pd.DataFrame:
    """Columns index, database, record, patient, signal_hash: a row per record of the archive."""
    return pd.DataFrame(
        {
            "index": np.arange(len(archive.record_id)),
            "database": np.asarray(archive.database, object),
            "record": np.asarray(archive.record_id, object),
            "patient": np.asarray(archive.patient_names, object)[archive.patient],
            "signal_hash": np.asarray(archive.signal_hash, object),
        }
    )


def counted_as(labels: Sequence[str]) -> dict[str, str]:
    """What each label counts as: "A" where ``labels`` have AFIB=A, "" where they have AFIB= and its records are left
    out. Raises EcgrayError for other words and for a label that is there twice."""
    counted: dict[str, str] = {}
    for pair in labels:
        label, sign, other = pair.partition("=")
        if not label or not sign or label in counted:
            raise EcgrayError(
                f"Labels must each be told once, as AFIB=A (AFIB counts as A) or AFIB= (left out), got '{pair}'; "
                "give others."
            )
        counted[label] = other
    return counted


def refuse_unknown_labels(labels: Sequence[str], sets: Sequence[LabelledSet], classes: Sequence[str]) -> None:
    """Raises EcgrayError where ``labels`` name a label that no record of ``sets`` carries, or count one as no class."""
    own = frozenset[str]().union(*(one.own_labels for one in sets))
    for label, other in counted_as(labels).items():
        if label not in own:
            raise EcgrayError(
                f"A label that counts as another must be one of {listed(sorted(own))}, got '{label}={other}'; leave it "
                "out or correct it."
            )
        if other and other not in classes:
            raise EcgrayError(
                f"A label must count as one of the classes {', '.join(classes)}, got '{label}={other}'; give one of "
                f"them, or '{label}=' to leave its records out."
            )


def open_labelled(
    shards: str | Path,
    labels: Sequence[str] = (),
    *,
    seconds: float = float("inf"),
    padding: Literal["before", "after"] = "before",
) -> LabelledSet:
    """The labelled records of a shard set, under what their labels count as (``counted_as``), without those whose last
    (``padding`` after: first) ``seconds`` are mostly missing; how many others it has is said in one line.

    Raises EcgrayError when the set cannot be opened or no record with exactly one label is left.
    """
    counted = counted_as(labels)
    if not str(shards):
        raise EcgrayError("Finetuning needs a labelled shard set, got none; give --data SHARDS.")
    archive = open_archive([shards], verify="hashes")
    counts = np.array([len(labels) for labels in archive.labels], np.int64)
    single = counts == 1
    refused = f"{int((counts == 0).sum())} without a label and {int((counts > 1).sum())} with several"
    if not single.any():
        raise EcgrayError(
            f"'{shards}' must hold records with one label each, got {refused}; ingest a labelled database."
        )
    if not single.all():
        log.warning("%s: records must carry one label each; left out: %s of %d.", shards, refused, len(counts))
    records = record_names(archive)[single]
    own = [found[0] for found in archive.labels if len(found) == 1]
    records.insert(4, "label", [counted.get(label, label) for label in own])
    kept = np.array([counted.get(label) != "" for label in own])
    if not kept.any():
        raise EcgrayError(f"'{shards}' must keep records, got all left out by {' '.join(labels)}; leave out fewer.")
    if not kept.all():
        log.warning("%s: left out by their labels: %d of %d.", shards, (~kept).sum(), len(counts))
    shown = min(seconds, archive.samples.max() / archive.fs)
    gone = mostly_in_gaps(archive, records["index"].to_numpy(np.int64), shown, padding)
    if (kept & gone).any():
        named = listed(records["record"][kept & gone], 5)
        log.warning("%s: left out, as what a network would be shown is mostly missing: %s.", shards, named)
        kept &= ~gone
        if not kept.any():
            raise EcgrayError(f"'{shards}' must hold records that are mostly there, got all in gaps; ingest others.")
    records = records[kept].reset_index(drop=True)
    return LabelledSet(archive, records, len(counts) - len(records), frozenset(own))


def overlap(records: pd.DataFrame, seen: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``records`` whose record, patient (of one database) or signal is among those of ``seen``."""
    found = records["signal_hash"].isin(seen["signal_hash"]).to_numpy(copy=True)
    # Of hundreds of thousands of records that were pretrained on, few bear a name that one of these has.
    seen = seen[seen["record"].isin(records["record"]) | seen["patient"].isin(records["patient"])]
    for key in (["database", "record"], ["database", "patient"]):
        found |= pd.MultiIndex.from_frame(records[key]).isin(pd.MultiIndex.from_frame(seen[key]))
    return records[found]


def refuse_overlap(records: pd.DataFrame, seen: pd.DataFrame, whose: str) -> None:
    """Raises EcgrayError with the list of ``records`` that ``seen`` has, by name, patient or signal."""
    found = overlap(records, seen).drop_duplicates(["database", "record"])
    if len(found):
        raise EcgrayError(
            f"No test record may be among {whose}, got {len(found)}: {listed(found['record'])}; "
            "take them out of one of the two, or test on other records."
        )


def listed(names: pd.Series | Sequence[str], most: int = 20) -> str:
    """The names in one line: the first ``most``, and how many more there are."""
    every = [str(name) for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
