"""PhysioNet/CinC Challenge 2017: short single-lead recordings, each with one label."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ecgray.databases.cinc2017_versions import VERSIONS, possible_versions
from ecgray.databases.layouts import other_layout, require_folder
from ecgray.databases.record import Database, Found, Record, Reference
from ecgray.databases.walk import walk
from ecgray.databases.wfdb_files import read_record
from ecgray.errors import EcgrayError, quoted, unknown

CLASSES = {"N": "normal rhythm", "A": "atrial fibrillation", "O": "other rhythm", "~": "noise"}


@dataclass(frozen=True, kw_only=True)
class CinC2017(Database):
    """CinC2017 training set: 8,528 recordings of 9 to 60 s, 300 Hz, one lead, a patient each, no beat annotations.

    | labels | N | A | O | ~ |
    |---|---|---|---|---|
    | v3 | 5,076 | 758 | 2,415 | 279 |
    | v2 | 5,050 | 738 | 2,456 | 284 |
    | original | 5,154 | 771 | 2,557 | 46 |

    ``labels`` picks the version; which table has it is told by content, since ``REFERENCE.csv`` does not name its
    own; where its records cannot tell, it is taken for the version asked for, with a warning. The root is the folder
    that holds ``training2017/``, or that folder itself. Records are the headers that are there, whatever RECORDS lists;
    one without a row in the table has no label.

    Clifford et al., Computing in Cardiology 44, 2017, doi:10.22489/CinC.2017.065-469.
    """

    labels: Literal["v3", "v2", "original"] = "v3"
    """Version of the reference labels."""

    name: ClassVar[str] = "cinc2017"
    title: ClassVar[str] = "AF Classification from a Short Single Lead ECG Recording (CinC Challenge 2017)"
    licence: ClassVar[str] = "ODC-BY 1.0"
    citation: ClassVar[str] = "Clifford GD et al. Computing in Cardiology 44 (2017). doi:10.22489/CinC.2017.065-469"

    def __post_init__(self) -> None:
        if self.labels not in VERSIONS:
            raise unknown("label version of cinc2017", self.labels, VERSIONS)

    def find(self, root: Path) -> Sequence[Reference]:
        require_folder(root, self.name)
        folder = root / "training2017" if (root / "training2017").is_dir() else root
        listing = walk(folder, below=False, tables=r"REFERENCE.*\.csv")
        names = [path.name for path in listing.headers]
        tables = sorted({*folder.glob("REFERENCE*.csv"), *root.glob("REFERENCE*.csv")})
        if not names or not tables:
            missing = "records (.hea and .mat)" if tables else "records and their REFERENCE-v3.csv"
            raise other_layout(root, self.name, f"{missing}, in it or in its training2017/", listing)
        labels = _table_of_version(tables, self.labels)
        references = [
            Reference(record=name, patient=name, path=folder / name, labels=(labels[name],) if name in labels else ())
            for name in names
        ]
        return Found(references, listing.remarks())

    def read(self, reference: Reference) -> Record:
        return read_record(reference, self.name)


def _table_of_version(tables: Sequence[Path], asked: str) -> dict[str, str]:
    """The labels of the table whose content is the version asked for, else of one whose content cannot tell and
    whose name does not say another; where the name says none either, a line on stderr tells that this was taken."""
    contents = {table: read_table(table) for table in tables}
    possible = {table: possible_versions(labels) for table, labels in contents.items()}
    for table in tables:
        if possible[table] == {asked}:
            return contents[table]
    for table in sorted(tables, key=lambda table: _stated(table) != asked):
        if asked in possible[table] and _stated(table) in (asked, None):
            if _stated(table) is None:
                print(
                    f"ecgray: {table.name} of cinc2017 was taken for labels of version {asked}, though it may be"
                    f" {' or '.join(sorted(possible[table]))}; rename it to REFERENCE-{asked}.csv if that is right.",
                    file=sys.stderr,
                )
            return contents[table]
    held = ", ".join(f"{table.name} holds {' or '.join(sorted(possible[table]))}" for table in tables)
    raise EcgrayError(
        f"cinc2017 must find labels of version {asked}, but {held}; add REFERENCE-{asked}.csv or choose that version."
    )


def _stated(table: Path) -> str | None:
    """The version that a table's name says (``REFERENCE.csv`` says none)."""
    found = re.fullmatch(r"REFERENCE[-_]?(v2|v3|original)\.csv", table.name, re.IGNORECASE)
    return found[1].lower() if found else None


def read_table(table: Path) -> dict[str, str]:
    """record -> label of a reference table; a header row, blank lines and CRLF are allowed."""
    labels: dict[str, str] = {}
    try:
        rows = list(csv.reader(table.read_text("utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EcgrayError(f"{table} must be a readable table of record,label ({error}); restore it.") from None
    for number, cells in enumerate(rows, 1):
        row = [cell.strip() for cell in cells]
        if not any(row) or (number == 1 and len(row) > 1 and row[1] not in CLASSES and len(row[1]) > 1):
            continue
        if len(row) < 2 or row[1] not in CLASSES or labels.get(row[0], row[1]) != row[1]:
            raise EcgrayError(
                f"{table.name} must give each record one label of {', '.join(CLASSES)}, but line {number} is"
                f" {quoted(','.join(cells), 200)}; restore the published table."
            )
        labels[row[0]] = row[1]
    return labels
