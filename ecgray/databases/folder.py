"""Any folder of WFDB records, with an optional table of labels."""

from __future__ import annotations

import csv
import json
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
from ecgray.databases.patients import Headers, carried, named_folder, own_folder, read_headers
from ecgray.databases.record import Database, Found, Record, RecordRefused, Reference
from ecgray.databases.walk import LABELS, walk
from ecgray.databases.wfdb_files import Annotators, BeatsAre, read_record, require_annotations
from ecgray.errors import EcgrayError, plain, quoted

_SEARCH_S = 60.0
"""Seconds that finding the patients of all paths may take: of a million it takes two, of a runaway pattern for ever."""


@dataclass(frozen=True, kw_only=True)
class Folder(Database):
    """Every WFDB record under a folder, subfolders included (links to folders are not followed).

    A record's id is its path below the root without suffix (``p1/rec2``). ``lead`` picks leads by name, case aside, and
    refuses a record that lacks one; none keeps every voltage that can be an ECG lead by its name. Annotations come from
    the files with the suffix ``annotator``, read as in the MIT-BIH databases; beats from those with the suffix
    ``beats_annotator``, if set.

    ``labels.csv`` in the root may give labels and patients: a first row naming the columns ``record``, ``label``
    (several separated by ``;``, or none) and, where known, ``patient``; records by id, or by bare name where only one
    record has it. Whose a record is says, in this order: ``labels.csv``; ``patient``, if that is set; the record's
    header (``# patient 7``; ``patients.stated`` tells which words count); its name, where it is one of a database whose
    names carry the patient (``p00007_s01`` of Icentia11K; ``patients.carried``); its folder, or the one above that is
    named as a patient's (``pat007/monday``) or is no visit's (``p7/visit1``). Where all records lie in one folder and
    nothing else is said, each record is its own patient. The segments of a multi-segment record are of one patient:
    each is a record, the whole is refused.
    """

    lead: tuple[str, ...] = ()
    """Names of the leads to take, in this order (default: every voltage that can be an ECG lead by its name)."""
    annotator: str = "atr"
    """Suffix of the annotation files."""
    beats_annotator: str | None = None
    """Suffix of the annotation files of the beats, where it is another (AFDB: rhythms in atr, beats in qrs)."""
    beats_are: BeatsAre | None = None
    """What every beat counts as: what its symbol says, undefined, or normal (default: undefined in the files of a
    detector, as qrs, which does not tell beats apart; what their symbol says in others)."""
    patient: str | None = None
    """Pattern (Python's re) that is searched in a record's path below the root, as p1/rec2; its first group, or all it
    matches where it has none, is the patient (default: what header, name or folder say; a labels.csv that names one
    wins)."""

    name: ClassVar[str] = "folder"
    title: ClassVar[str] = "Any folder of WFDB records"
    licence: ClassVar[str] = "as its source says"
    citation: ClassVar[str] = "the source of the records"

    def __post_init__(self) -> None:
        self._annotators()
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

    def _annotators(self) -> Annotators:
        return Annotators(rhythms=self.annotator, beats=self.beats_annotator, beats_are=self.beats_are)

    def find(self, root: Path) -> Sequence[Reference]:
        require_folder(root, self.name)
        listing = walk(root, tables=re.escape(LABELS))
        paths = listing.headers
        if not paths:
            raise other_layout(root, self.name, "WFDB headers (.hea), in it or below it", listing)
        require_annotations(root, paths, self._annotators(), needed=False)
        ids = [path.relative_to(root).as_posix() for path in paths]
        table = _read_labels(root / LABELS, ids)
        headers = read_headers(paths)
        by_pattern = None if self.patient is None else _search(self.patient, ids)
        one_folder = len({path.parent for path in paths}) == 1
        known = _known(table, ids, paths, headers)
        references = []
        ways: Counter[str] = Counter()
        alone_ids: set[str] = set()
        for number, (record, path) in enumerate(zip(ids, paths, strict=True)):
            whole = headers.recording.get(path, path)
            recording = whole.relative_to(root).as_posix()
            alone = one_folder or whole.parent == root
            stated = headers.patient.get(path, "")
            candidates = (
                ("table", table.rows.get(record, _NO_ROW)[1] or known.get(whole)),
                ("pattern", None if by_pattern is None else by_pattern[number]),
                ("header", known.get(stated, stated)),
                ("name", carried(record) or carried(recording)),
                ("named folder", named_folder(recording)),
                ("itself" if alone else "folder", recording if alone else own_folder(recording)),
            )
            way, patient = next((way, who) for way, who in candidates if who or (way == "pattern" and who is not None))
            ways[way] += 1
            if way == "itself":
                alone_ids.add(recording)
            references.append(
                Reference(record=record, patient=patient or "", path=path, labels=table.rows.get(record, _NO_ROW)[0])
            )
        references.sort(key=lambda reference: (reference.patient, reference.record))
        return Found(
            references,
            [*table.remarks(len(ids)), *_of_patients(ways, len(alone_ids), headers, paths), *listing.remarks()],
        )

    def read(self, reference: Reference) -> Record:
        if not reference.patient:
            raise RecordRefused(
                f"its path holds no patient by --patient {quoted(self.patient)}", "give a pattern that their paths hold"
            )
        return read_record(reference, self.name, leads=self.lead, annotators=self._annotators())


def _known(table: _Table, ids: Sequence[str], paths: Sequence[Path], headers: Headers) -> dict[Path | str, str]:
    """What the table says of a recording, by any record of it, and of a patient that headers state: the name that the
    table has for it, so that one person does not bear two."""
    found: dict[Path | str, str] = {}
    for record, path in zip(ids, paths, strict=True):
        if patient := table.rows.get(record, _NO_ROW)[1]:
            found.setdefault(headers.recording.get(path, path), patient)
            if path in headers.patient:
                found.setdefault(headers.patient[path], patient)
    return found


def _of_patients(ways: Counter[str], alone: int, headers: Headers, paths: Sequence[Path]) -> list[str]:
    """How the records' patients are told, where somebody may want it otherwise. ``ways``: records by what told it;
    ``alone``: recordings of which nothing tells it."""
    total = ways.total()
    told = headers.remarks(paths, "count by their folder or name, or as a patient each") if ways["header"] else []
    if alone > 1:
        kind = "record" if alone == ways["itself"] else "recording"
        which = f"each {kind} counts" if ways["itself"] == total else f"each of {alone:,} {kind}s counts"
        told.append(f"nothing tells patients apart: {which} as a patient of its own; give --patient or labels.csv")
    if ways["folder"]:
        which = "" if ways["folder"] == total else f" of {ways['folder']:,} of {total:,} records"
        told.append(f"patients{which} are told apart by folder alone; give --patient or labels.csv where that is wrong")
    return told


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


_NO_ROW: tuple[tuple[str, ...], str] = ((), "")


@dataclass(frozen=True)
class _Table:
    """``rows``: record id -> (labels, patient or ""); ``absent``: names of rows whose record is not there; whether a
    column gives patients."""

    rows: dict[str, tuple[tuple[str, ...], str]]
    absent: tuple[str, ...] = ()
    has_patients: bool = False

    def remarks(self, records: int) -> list[str]:
        told = []
        if self.absent:
            names = ", ".join(plain(name, 60) for name in self.absent[:3])
            more = f" and {len(self.absent) - 3} more" if len(self.absent) > 3 else ""
            told.append(
                f"{len(self.absent):,} of {len(self.absent) + len(self.rows):,} rows of labels.csv name records that"
                f" are not here: {names}{more}"
            )
        if self.rows and len(self.rows) < records:
            told.append(f"labels.csv has a row for {len(self.rows):,} of {records:,} records; the others have no label")
        given = sum(bool(patient) for _, patient in self.rows.values())
        if self.has_patients and given < records:
            told.append(f"labels.csv gives the patient of {given:,} of {records:,} records")
        return told


def _advice(columns: Sequence[str]) -> str:
    """How who has these columns goes on."""
    if len(columns) == 1 and re.search("[;\t]", columns[0]):
        return "separate cells by commas"
    return "add the column label, which may be empty" if "record" in columns else "correct that row"


def _read_labels(file: Path, ids: Sequence[str]) -> _Table:
    """What ``labels.csv`` says; nothing where there is none."""
    if not file.exists():
        return _Table({})
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            lines = csv.reader(text, strict=True)
            columns = [column.strip() for column in next(lines, [])]
            rows = [(lines.line_num, [" ".join(cell.split()) for cell in cells]) for cells in lines if any(cells)]
    except UnicodeDecodeError:
        raise EcgrayError(f"{file} must be text in UTF-8, and is not; save it as CSV in UTF-8.") from None
    except (OSError, csv.Error) as error:
        raise EcgrayError(f"{file} must be a table of record,label, but cannot be read: {error}.") from None
    if not {"record", "label"} <= set(columns) or len(set(columns)) < len(columns):
        raise EcgrayError(
            f"{file} must have the columns record and label (and optionally patient) in its first row, each once, got"
            f" {quoted(','.join(columns), 200)}; {_advice(columns)}."
        )
    bare = Counter(record.rsplit("/", 1)[-1] for record in ids)
    known = {record: record for record in ids}
    known |= {name: record for record in ids if bare[name := record.rsplit("/", 1)[-1]] == 1}
    table: dict[str, tuple[tuple[str, ...], str]] = {}
    absent: list[str] = []
    for number, cells in rows:
        if len(cells) != len(columns):
            raise EcgrayError(
                f"{file} must have {len(columns)} cells in each row, but line {number} has {len(cells)}; several labels"
                " are separated by ';'."
            )
        row = dict(zip(columns, cells, strict=True))
        given = row["record"]
        if given not in known:
            absent.append(given)  # a table may cover more than what is downloaded
            continue
        if known[given] in table:
            raise EcgrayError(f"{file} must name each record once, but {quoted(given)} stands again in line {number}.")
        labels = tuple(label.strip() for label in row["label"].split(";") if label.strip())
        table[known[given]] = (labels, row.get("patient", ""))
    if rows and not table:
        raise EcgrayError(
            f"{file} must name records of this folder, but none of its {len(rows)} rows does; records are named like"
            f" '{ids[0]}'."
        )
    return _Table(table, tuple(absent), "patient" in columns)
