"""Whose a record is, where its header, its name or its folder says so.

What PhysioNet's headers write, and what counts as a statement (see ``stated``):

| comment | of |
|---|---|
| ``# patient 1`` | INCART (incartdb): a number per Holter recording, of which several records were cut |
| (the folder ``x_mitdb``) | MIT-BIH: ``x_mitdb/x_108`` repeats a stretch of 108 |
| ``# This record was taken from the same analog tape as record 201.`` | MIT-BIH (mitdb) 202 |
| ``# <subject_id>: 10000032``, ``# Subject ID: 17``, ``#Patient: 12``, ``# patient_id = A-3`` | others, and own files |
| ``# Age: 55, Sex: M, Patient: 7``, ``#<age>: 65 <sex>: F <patient>: 7`` | a field among fields |

Names that carry their patient (see ``carried``): Icentia11K, the noise stress test (nstdb: 118e24), the matched subsets
of MIMIC-II and -III, MIMIC-IV-ECG (by its folders), the polysomnograms slpdb, the Long-Term ST database (ltstdb:
s20272 is the second record of patient 027), CPSC2021 (data_12_3), the intracardiac records iafdb (iaf1_svc).

Headers that name one signal file are of one recording (apnea-ecg: a01er holds the ECG of a01).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ecgray.databases.wfdb_header import read_outline
from ecgray.errors import counted, plain, quoted

_LONGEST = 300
"""Characters of a comment that are looked at: a line of a WFDB header has at most 255."""
_MOST = 500
"""Comments of a header that are looked at."""

_WHO = r"<?(?:patient|subject|participant)(?:[\s_-]?(?P<key>id|identifier|no\.?|nr\.?|num|number|code)|\s*#)?>?"
_WHICH = r"[\s,;/-]+(?:record(?:ing)?|segment|session|visit|day|night|part|tape|trial|run)\s*#?\s*\w{1,12}\s*$"
# A field is all of its comment, or stands among others of its kind: "Age: 55, Patient: 7" and "<age>: 65 <patient>: 7".
_FIELD = re.compile(
    rf"(?:^|[,;|]\s*|[:=]\s*[^\s:=,;|]+\s+){_WHO}\s*[:=]\s*"
    rf"(?P<id>[^\s,;|()]+)(?=\s*$|\s*[,;|(]|\s+<?[A-Za-z][\w-]*(?:\s[\w-]+)?>?\s*[:=]|\s+<|{_WHICH})",
    re.IGNORECASE,
)
_ALONE = re.compile(rf"{_WHO}(?:\s+#?|(?<=[a-z])[_-]?(?=\d))(?P<id>[^\s,;]+)(?:{_WHICH}|\s*\([^()]*\))?", re.IGNORECASE)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NO_ID = re.compile(
    r"\d{1,3}-?(?:y|yo|y/o|yrs?|years?|m|f|kg|cm|days?|months?)"  # an age, with or without the sex
    r"|\d{4}-\d\d-\d\d|\d\d?\.\d\d?\.\d{2,4}"  # a day
    r"|(?:un)?known|none|na|nan|null|anon(?:ymous)?|xx+|0+-0+-0+",
    re.IGNORECASE,
)
_SPEAKS = re.compile(rf"^#*\s*{_WHO}(?:\s*[:=]\s*\S|[\s_-]*#?\d)", re.IGNORECASE)
_SAME_TAPE = re.compile(r"taken from the same\s+(?:\w+\s+)?tape as record (\w+)", re.IGNORECASE)

_NAMES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:.*/)?(p\d{5})_s\d{2,}",  # Icentia11K
        r"(?:.*/)?(p1\d{7})/s(\d{8})/\2",  # MIMIC-IV-ECG
        r"(?:.*/)?([ps]\d{5,6})-\d{4}-\d\d-\d\d-\d\d-\d\dn?",  # matched subsets of MIMIC-II and MIMIC-III
        r"(?:.*/)?(11[89])e(?:\d\d|_6)",  # nstdb
        r"(?:.*/)?(slp\d\d)[ab]?",  # slpdb
        r"(?:.*/)?(s[23]\d{3})\d",  # ltstdb
        r"(?:.*/)?(data_\d{1,3})_\d{1,2}",  # CPSC2021
        r"(?:.*/)?(iaf\d)_(?:afw|ivc|svc|tva)",  # iafdb
    )
)
_FOLDER = re.compile(r"(?:patient|subject|participant|pat|subj)[-_ ]?\d{1,12}|sub-\w+", re.IGNORECASE)
_VISIT = re.compile(
    r"(?:visit|session|ses|day|night|week|month|exam|examination|scan|recording|baseline|follow-?up)[-_ ]?\w{0,4}"
    r"|\d{4}[-_.]?\d\d[-_.]?\d\d(?:[-_ T]\d\d[-_.:]?\d\d(?:[-_.:]?\d\d)?)?",
    re.IGNORECASE,
)


def stated(comments: Iterable[str]) -> tuple[str, ...]:
    """The patients that a header's comments name, each once; more than one where it contradicts itself.

    Only what can be nothing else: the word patient, subject or participant, and an id of one word with a digit in it
    (without one only after "id", "number" and the like). Prose ("the patient has 2 leads off"), ages and days are none.
    """
    found = []
    for comment in list(comments)[:_MOST]:
        text = comment[:_LONGEST].lstrip("# \t").strip().rstrip(".")
        whole = _ALONE.fullmatch(text)
        found += [_id(match) for match in (whole, *_FIELD.finditer(text)) if match is not None]
    return tuple(dict.fromkeys(name for name in found if name))


def _id(match: re.Match[str]) -> str:
    text = match["id"].strip("'\"<>.")
    if _ID.fullmatch(text) is None or _NO_ID.fullmatch(text) is not None:
        return ""
    return text if match["key"] or any(letter.isdigit() for letter in text) else ""


def carried(record: str) -> str | None:
    """The patient that the name of a record (its path below the root) carries; None where it is not certain."""
    return next((found[1] for pattern in _NAMES if (found := pattern.fullmatch(record)) is not None), None)


def named_folder(record: str) -> str:
    """The folder above a record that is named as a patient's (``pat001``, ``sub-01``), with what is above it, the
    outermost of several; "" where none is. ``record``: its path below the root."""
    above = record.split("/")[:-1]
    depth = next((n for n, name in enumerate(above, 1) if _FOLDER.fullmatch(name)), 0)
    return "/".join(above[:depth])


def own_folder(record: str) -> str:
    """The folder of a record, without folders at its end that are named as a visit or a day (``p1/visit2`` is p1's);
    whole where all are. ``record``: its path below the root."""
    above = record.split("/")[:-1]
    kept = next((n for n in range(len(above), 0, -1) if not _VISIT.fullmatch(above[n - 1])), len(above))
    return "/".join(above[:kept])


@dataclass(frozen=True)
class Headers:
    """What the headers of a folder say of each other and of their patients, by the records' paths without suffix.

    recording: segment -> the multi-segment record that it is a stretch of, record -> the one of the same tape or with
    the same signal file, excerpt -> its source;
    patient: id that its own header, or another of its recording, states;
    several: (path, ids) of headers that state more than one, of which the first is taken; vague: (path, comment) of
    those that speak of a patient in words that are no id.
    """

    recording: Mapping[Path, Path]
    patient: Mapping[Path, str]
    several: tuple[tuple[Path, tuple[str, ...]], ...] = ()
    vague: tuple[tuple[Path, str], ...] = ()

    def remarks(self, paths: Sequence[Path], otherwise: str) -> list[str]:
        """What its user should hear; ``otherwise``: how the records without a statement are told apart."""
        told = []
        said = sum(path in self.patient for path in paths)
        if 0 < said < len(paths):
            told.append(f"the headers of {said:,} of {len(paths):,} records name their patient; the others {otherwise}")
        if self.several:
            path, ids = self.several[0]
            told.append(
                f"{counted(len(self.several), 'header names', 'headers name')} more than one patient, and the first is"
                f" taken, as in {plain(path.name)}:"
                f" {', '.join(ids)[:100]}"
            )
        if self.vague:
            path, comment = self.vague[0]
            told.append(
                f"{counted(len(self.vague), 'header speaks', 'headers speak')} of a patient in words that are no id, as"
                f" {plain(path.name)}:"
                f" {quoted(comment, 60)}; that counts for nothing"
            )
        folders: dict[str, set[Path]] = {}
        for path in paths:
            if path in self.patient:
                folders.setdefault(self.patient[path], set()).add(path.parent)
        if wide := sorted(patient for patient, places in folders.items() if len(places) > 1):
            told.append(
                f"{counted(len(wide), 'patient is', 'patients are')} named by headers in more than one folder, as"
                f" {plain(wide[0], 60)}: all records of one such name count as one patient's"
            )
        return told


def read_headers(paths: Sequence[Path]) -> Headers:
    """What the headers at ``paths`` (without suffix) say; each is read once. One that cannot be read says nothing."""
    there = set(paths)
    above: dict[Path, Path] = {}
    own: dict[Path, str] = {}
    first_with: dict[Path, Path] = {}
    several, vague = [], []

    def whole(path: Path) -> Path:
        while path in above:
            above[path] = above.get(above[path], above[path])  # shorter for the next one who asks
            path = above[path]
        return path

    def join(part: Path, recording: Path) -> None:
        if (top := whole(part)) != (other := whole(recording)):
            above[top] = other

    for path in paths:
        if path.parent.name == "x_mitdb" and (source := path.parent.parent / path.name.removeprefix("x_")) in there:
            join(path, source)
        outline = read_outline(path)
        for name in outline.segments:
            if "/" not in name:
                join(path.parent / name, path)
        for name in outline.files:
            if "/" not in name:
                join(path, first_with.setdefault(path.parent / name, path))
        if not outline.comments:
            continue
        ids = stated(outline.comments)
        if ids:
            own[path] = ids[0]
        elif spoken := next((text for text in outline.comments[:_MOST] if _SPEAKS.match(text[:_LONGEST])), None):
            vague.append((path, spoken[:_LONGEST]))
        if len(ids) > 1:
            several.append((path, ids))
        tape = _SAME_TAPE.search(" ".join(outline.comments[:_MOST])[: 20 * _LONGEST])
        if tape is not None and path.parent / tape[1] in there:
            join(path, path.parent / tape[1])
    recording = {path: whole(path) for path in list(above)}
    of_recording: dict[Path, str] = {}
    for path in sorted(own, key=lambda path: (path in recording, path)):  # the whole first, then its parts
        of_recording.setdefault(recording.get(path, path), own[path])
    inherited = {path: of_recording[top] for path in paths if (top := recording.get(path, path)) in of_recording}
    return Headers(recording, inherited | own, tuple(several), tuple(vague))
