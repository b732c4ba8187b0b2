"""MIT-BIH Arrhythmia Database, and any folder of its layout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ecgray.databases.layouts import other_layout, require_folder
from ecgray.databases.patients import carried, read_headers
from ecgray.databases.record import Database, Found, Record, Reference
from ecgray.databases.walk import walk
from ecgray.databases.wfdb_files import Annotators, BeatsAre, read_record, require_annotations
from ecgray.databases.wfdb_header import read_header

# 201 and 202 are of one subject; every other record is a subject of its own.
SAME_PATIENT = {"202": "201"}


@dataclass(frozen=True, kw_only=True)
class MitBih(Database):
    """MIT-BIH Arrhythmia Database: 48 half-hour records of 47 patients, 360 Hz, two leads, 109,494 beats
    (N 75,052, L 8,075, R 7,259, V 7,130, / 7,028, A 2,546, ...; flutter waves ``!`` not counted among them).

    A record is one lead of it, chosen by name since the leads' order varies; a record without that lead is refused.
    Records come from the folder itself, not from its subfolders (``x_mitdb`` repeats stretches of the same records).
    A rhythm runs up to the next rhythm mark or the end of the record. Attributes: age (years) and sex where known.
    ``annotator`` is the suffix of the annotation files; other databases of this layout have more than one (``qrs``).
    Whose a record is says its header (``# patient 7``; ``patients.stated`` tells which words count), else what is known
    of 201 and 202 and of names that carry it; else each record is a subject, and the segments of one recording are one.

    Moody and Mark, IEEE Eng Med Biol 20(3):45-50, 2001, doi:10.1109/51.932724.
    """

    lead: str = "MLII"
    """Name of the lead to take."""
    annotator: str = "atr"
    """Suffix of the annotation files (this layout also has qrs, for example)."""
    beats_annotator: str | None = None
    """Suffix of the annotation files of the beats, where it is another (AFDB: rhythms in atr, beats in qrs)."""
    beats_are: BeatsAre | None = None
    """What every beat counts as: what its symbol says, undefined, or normal (default: undefined in the files of a
    detector, as qrs, which does not tell beats apart; what their symbol says in others)."""

    name: ClassVar[str] = "mitdb"
    title: ClassVar[str] = "MIT-BIH Arrhythmia Database"
    licence: ClassVar[str] = "ODC-BY 1.0"
    citation: ClassVar[str] = "Moody GB, Mark RG. IEEE Eng Med Biol 20(3):45-50 (2001). doi:10.1109/51.932724"

    def __post_init__(self) -> None:
        self._annotators()

    def _annotators(self) -> Annotators:
        return Annotators(rhythms=self.annotator, beats=self.beats_annotator, beats_are=self.beats_are)

    def find(self, root: Path) -> Sequence[Reference]:
        require_folder(root, self.name)
        listing = walk(root, below=False)
        paths = listing.headers
        if not any(path.with_name(f"{path.name}.{self.annotator}").exists() for path in paths):
            expected = f"records as .hea, .dat and .{self.annotator} in the folder itself"
            raise other_layout(root, self.name, expected, listing)
        require_annotations(root, paths, self._annotators(), needed=True)
        headers = read_headers(paths)
        references = []
        for path in paths:
            whole = headers.recording.get(path, path).name
            known = headers.patient.get(path) or SAME_PATIENT.get(path.name) or carried(path.name)
            references.append(Reference(record=path.name, patient=known or whole, path=path))
        references.sort(key=lambda reference: (reference.patient, reference.record))
        return Found(references, [*headers.remarks(paths, "count as a patient each"), *listing.remarks()])

    def read(self, reference: Reference) -> Record:
        header = read_header(reference.path)
        return read_record(
            reference,
            self.name,
            leads=(self.lead,),
            annotators=self._annotators(),
            attributes=_subject(header.comments),
            header=header,
        )


def _subject(comments: Sequence[str]) -> dict[str, Any]:
    """Age and sex from a comment such as "69 M 1085 1629 x1" (an age of -1 is unknown)."""
    for comment in comments:
        if found := re.match(r"(-?\d{1,3})\s+([MF])\b", comment):
            age = int(found[1])
            return ({"age": age} if age >= 0 else {}) | {"sex": found[2]}
    return {}
