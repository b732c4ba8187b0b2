"""Any folder of WFDB records, with an optional table of labels."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ecgray.databases.ecg_leads import lead_key
from ecgray.databases.layouts import other_layout, require_folder
from ecgray.databases.mitdb import BEAT_SYMBOLS, RHYTHM_NAMES
from ecgray.databases.record import Database, Record, RecordRefused, Reference
from ecgray.databases.wfdb_files import masters, read_record, require_annotator
from ecgray.errors import EcgrayError, quoted

_SEARCH_S = 60.0
"""Seconds that finding the patients of all paths may take: of a million it takes two, of a runaway pattern for ever."""


@dataclass(frozen=True, kw_only=True)
class Folder(Database):
    """Every WFDB record under a folder, subfolders included (links to folders are not followed).

    A record's id is its path below the root without suffix (``p1/rec2``). ``lead`` picks leads by name, case aside, and
    refuses a record that lacks one; none keeps every voltage that can be an ECG lead by its name. Annotations come from
    the files with the suffix ``annotator``, read as in the MIT-BIH databases.

    ``labels.csv`` in the root may give labels and patients: a first row naming the columns ``record``, ``label``
    (several separated by ``;``, or none) and, where known, ``patient``; records by id, or by bare name where only one
    record has it. Where it gives no patient, ``patient`` does, if that is set. Without either the patient is the
    record's folder; where all records lie in one folder, each record is its own patient, and the segments of a
    multi-segment record are of one: each is a record, the whole is refused.
    """

    lead: tuple[str, ...] = ()
    """Names of the leads to take, in this order (default: every voltage that can be an ECG lead by its name)."""
    annotator: str = "atr"
    """Suffix of the annotation files."""
    patient: str | None = None
    """Pattern (Python's re) that is searched in a record's path below the root, as p1/rec2; its first group, or all it
    matches where it has none, is the patient (default: the record's folder; a labels.csv that names one wins)."""

    name: ClassVar[str] = "folder"
    title: ClassVar[str] = "Any folder of WFDB records"
    licence: ClassVar[str] = "as its source says"
    citation: ClassVar[str] = "the source of the records"

    def __post_init__(self) -> None:
        require_annotator(self.annotator)
        if len({lead_key(name) for name in self.lead}) < len(self.lead):
            raise EcgrayError(f"lead must name each lead once, got {quoted(' '.join(self.lead))}; name it once.")
        if self.patient is not None:
            try:
                re.compile(self.patient)
            except (re.error, OverflowError, RecursionError) as error:
                reason = " ".join(str(error).split())[:100]
                raise EcgrayError(
                    f"patient must be a pattern of Python's re, as '(pat[0-9]+)', got {quoted(self.patient)} ({reason})"
                    "; correct it."
                ) from None

    def find(self, root: Path) -> Sequence[Reference]:
        require_folder(root, self.name)
        paths = headers(root)
        if not paths:
            raise other_layout(root, self.name, "WFDB headers (.hea), in it or below it")
        suffix = f".{self.annotator}"
        if suffix != ".atr" and not any(path.with_name(path.name + suffix).exists() for path in paths):
            raise EcgrayError(
                f"annotator must be the suffix of annotation files, and {root} has no {suffix}; check it."
            )
        ids = [path.relative_to(root).as_posix() for path in paths]
        one_folder = len({path.parent for path in paths}) == 1
        whole = masters(path for path in paths if one_folder or path.parent == root)
        table = _read_labels(root / "labels.csv", ids)
        by_pattern = None if self.patient is None else _search(self.patient, ids)
        references = []
        for number, (record, path) in enumerate(zip(ids, paths, strict=True)):
            labels, patient = table.get(record, ((), ""))
            if not patient:
                recording = whole.get(path, path).relative_to(root)
                stated = table.get(recording.as_posix(), ((), ""))[1]
                own = one_folder or path.parent == root
                by_place = (recording if own else recording.parent).as_posix()
                patient = stated or (by_place if by_pattern is None else by_pattern[number])
            references.append(Reference(record=record, patient=patient, path=path, labels=labels))
        return sorted(references, key=lambda reference: (reference.patient, reference.record))

    def read(self, reference: Reference) -> Record:
        if not reference.patient:
            raise RecordRefused(f"its path holds no patient by --patient {quoted(self.patient)}")
        return read_record(
            reference,
            self.name,
            beat_symbols=BEAT_SYMBOLS,
            rhythm_names=RHYTHM_NAMES,
            leads=self.lead,
            annotator=self.annotator,
        )


def headers(root: Path) -> list[Path]:
    """Paths, without suffix, of the WFDB records under ``root``, subfolders included, sorted."""
    return sorted(
        Path(folder, name[:-4]) for folder, _, names in os.walk(root) for name in names if name.endswith(".hea")
    )


_SEARCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
group = min(re.compile(pattern).groups, 1)
print(json.dumps([found[group] or "" if (found := re.search(pattern, name)) else "" for name in names]))
"""


def _search(pattern: str, names: Sequence[str]) -> list[str]:
    """What the pattern finds in each name, "" for nothing; in a process of its own, since re cannot be stopped."""
    try:
        found = subprocess.run(
            [sys.executable, "-I", "-W", "ignore", "-c", _SEARCH],
            input=json.dumps([pattern, names]),
            capture_output=True,
            check=True,
            encoding="ascii",
            timeout=_SEARCH_S,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        raise EcgrayError(
            f"patient must be a pattern that is found quickly, got {quoted(pattern)}, which did not come through the"
            f" {len(names)} paths in {_SEARCH_S:g} s; write it without a repeat inside a repeat."
        ) from None
    patients: list[str] = json.loads(found.stdout)
    return patients


def _read_labels(file: Path, ids: Sequence[str]) -> dict[str, tuple[tuple[str, ...], str]]:
    """record id -> (labels, patient or "") of ``labels.csv``; nothing where there is none."""
    if not file.exists():
        return {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            lines = csv.reader(text, strict=True)
            columns = [column.strip() for column in next(lines, [])]
            rows = [(lines.line_num, [" ".join(cell.split()) for cell in cells]) for cells in lines if any(cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EcgrayError(f"{file} must be a table of record,label, but cannot be read: {error}.") from None
    if not {"record", "label"} <= set(columns) or len(set(columns)) < len(columns):
        raise EcgrayError(
            f"{file} must have the columns record and label (and optionally patient) in its first row, each once, got"
            f" {quoted(','.join(columns), 200)}; correct that row."
        )
    bare = Counter(record.rsplit("/", 1)[-1] for record in ids)
    known = {record: record for record in ids}
    known |= {name: record for record in ids if bare[name := record.rsplit("/", 1)[-1]] == 1}
    table: dict[str, tuple[tuple[str, ...], str]] = {}
    for number, cells in rows:
        if len(cells) != len(columns):
            raise EcgrayError(
                f"{file} must have {len(columns)} cells in each row, but line {number} has {len(cells)}; several labels"
                " are separated by ';'."
            )
        row = dict(zip(columns, cells, strict=True))
        given = row["record"]
        if given not in known:
            continue  # a table may cover more than what is downloaded
        if known[given] in table:
            raise EcgrayError(f"{file} must name each record once, but {quoted(given)} stands again in line {number}.")
        labels = tuple(label.strip() for label in row["label"].split(";") if label.strip())
        table[known[given]] = (labels, row.get("patient", ""))
    if rows and not table:
        raise EcgrayError(
            f"{file} must name records of this folder, but none of its {len(rows)} rows does; records are named like"
            f" '{ids[0]}'."
        )
    return table
