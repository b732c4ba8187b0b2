"""MIT-BIH Arrhythmia Database, and any folder of its layout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ecgray.databases.layouts import other_layout, require_folder
from ecgray.databases.record import Database, Record, Reference
from ecgray.databases.wfdb_files import header_names, masters, read_record, require_annotator
from ecgray.databases.wfdb_header import read_header

# Every symbol that WFDB counts as a QRS complex; all other symbols (~ | x " [ ] + ...) are no beats.
BEAT_SYMBOLS: dict[str, str] = (
    dict.fromkeys("NLRejnB", "normal")
    | dict.fromkeys("AJS", "pac")
    | {"a": "aberrated"}
    | dict.fromkeys("VEr", "pvc")
    | dict.fromkeys("Q?/fF!", "undefined")
)
# Every other named rhythm is "other".
RHYTHM_NAMES = {"N": "normal", "AFIB": "afib", "AFL": "aflut"}
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

    Moody and Mark, IEEE Eng Med Biol 20(3):45-50, 2001, doi:10.1109/51.932724.
    """

    lead: str = "MLII"
    """Name of the lead to take."""
    annotator: str = "atr"
    """Suffix of the annotation files (this layout also has qrs, for example)."""

    name: ClassVar[str] = "mitdb"
    title: ClassVar[str] = "MIT-BIH Arrhythmia Database"
    licence: ClassVar[str] = "ODC-BY 1.0"
    citation: ClassVar[str] = "Moody GB, Mark RG. IEEE Eng Med Biol 20(3):45-50 (2001). doi:10.1109/51.932724"

    def __post_init__(self) -> None:
        require_annotator(self.annotator)

    def find(self, root: Path) -> Sequence[Reference]:
        require_folder(root, self.name)
        names = header_names(root)
        if not any((root / f"{name}.{self.annotator}").exists() for name in names):
            raise other_layout(root, self.name, f"records as .hea, .dat and .{self.annotator} in the folder itself")
        whole = masters(root / name for name in names)
        references = [
            Reference(record=path.name, patient=SAME_PATIENT.get(path.name, whole.get(path, path).name), path=path)
            for path in (root / name for name in names)
        ]
        return sorted(references, key=lambda reference: (reference.patient, reference.record))

    def read(self, reference: Reference) -> Record:
        header = read_header(reference.path)
        return read_record(
            reference,
            self.name,
            beat_symbols=BEAT_SYMBOLS,
            rhythm_names=RHYTHM_NAMES,
            leads=(self.lead,),
            annotator=self.annotator,
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
