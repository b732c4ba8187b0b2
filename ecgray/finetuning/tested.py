"""Which records a run was scored on: only scores of the same records can be ranked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from ecgray.finetuning.stored import read_names


@dataclass(frozen=True, kw_only=True)
class Tested:
    """Records that were scored: of which databases, how many, and whether they are a test or validate."""

    databases: tuple[str, ...]
    records: int
    split: Literal["test", "val"] = "test"

    def __str__(self) -> str:
        """ "1,706 records of cinc2017", "426 validation records of cinc2017"."""
        kind = "validation " if self.split == "val" else ""
        return f"{self.records:,} {kind}record{'' if self.records == 1 else 's'} of {self.name}"

    @property
    def name(self) -> str:
        return ", ".join(self.databases)


def tested_on(rows: pd.DataFrame) -> Tested | None:
    """What the rows of predictions or splits (columns split, database, record) test, or validate where no row is a
    test; None where none does either."""
    for split in ("test", "val"):
        records = rows.loc[rows["split"] == split, ["database", "record"]].drop_duplicates()
        if len(records):
            return Tested(databases=tuple(sorted(set(records["database"]))), records=len(records), split=split)
    return None


def tested_by(folder: Path) -> Tested | None:
    """What the finetuning run or evaluation in ``folder`` was or will be scored on, None where it does not say so yet.

    Raises EcgrayError for a table that is not whole.
    """
    files = (folder / name for name in ("splits.parquet", "predictions.parquet"))
    return next((tested_on(read_names(file)) for file in files if file.is_file()), None)


def signals_hash(records: pd.DataFrame) -> str:
    """The same for the same records (columns database, record, signal_hash) with the same samples, in any order."""
    rows = records[["database", "record", "signal_hash"]].drop_duplicates().sort_values(["database", "record"])
    return digest(rows.astype(str).itertuples(index=False, name=None))


def digest(rows: Iterable[tuple[str, ...]]) -> str:
    found = hashlib.sha256()
    for row in rows:
        found.update("\0".join(row).encode() + b"\n")
    return found.hexdigest()[:16]
