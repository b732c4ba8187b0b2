"""Icentia11K in its WFDB release: root/p00/p00000/p00000_s00.{hea,dat,atr}."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ecgray.databases.layouts import other_layout, require_folder
from ecgray.databases.record import Database, Record, Reference
from ecgray.databases.wfdb_files import header_names, read_record
from ecgray.errors import EcgrayError

BEAT_SYMBOLS = {"Q": "undefined", "N": "normal", "S": "pac", "a": "aberrated", "V": "pvc"}
RHYTHM_NAMES = {"N": "normal", "AFIB": "afib", "AFL": "aflut"}


@dataclass(frozen=True, kw_only=True)
class Icentia11k(Database):
    """Icentia11K: 11,000 patients with up to 50 segments each of one lead (a modified lead I), 250 Hz, 1,048,577
    samples (70 min) per segment; 541,794 annotated segments with N 2,061,141,216, Q 676,364,002, S 19,346,728 and
    V 17,203,041 beats; 17,236,067 rhythm zones: (N 16,074,753, (AFIB 848,238, (AFL 313,076, and of one beat 8,906.

    A segment is a record, without annotation file an unannotated one; in one with a file every beat is annotated, and
    where there are none none was found. A rhythm zone is [first beat, last beat + 1);
    outside the zones the rhythm is undefined. Beats and rhythm marks share samples, in either order in the file.

    Tan, Ortiz-Gagne, Beaudoin-Gagnon et al., PhysioNet 2022, doi:10.13026/kk0v-r952.
    """

    name: ClassVar[str] = "icentia11k"
    title: ClassVar[str] = "Icentia11k Single Lead Continuous Raw Electrocardiogram Dataset"
    licence: ClassVar[str] = "CC BY-NC-SA 4.0"
    citation: ClassVar[str] = "Tan S et al. PhysioNet (2022), version 1.0. doi:10.13026/kk0v-r952"

    def find(self, root: Path) -> Sequence[Reference]:
        require_folder(root, self.name)
        references = [
            Reference(record=segment, patient=patient.name, path=patient / segment)
            for group in _folders(root, r"p\d\d")
            for patient in _folders(group, r"p\d{5}")
            for segment in header_names(patient)
            if re.fullmatch(rf"{patient.name}_s\d+", segment)
        ]
        if not references:
            if any(re.search(r"_batched(_lbls)?\.pkl(\.gz)?$", name) for name in os.listdir(root)):
                raise EcgrayError(
                    f"{self.name} must be its WFDB release, and {root} holds the pickled one (*_batched.pkl.gz), which"
                    " is not read since unpickling runs code; download the WFDB release from PhysioNet."
                )
            raise other_layout(root, self.name, "segments as p00/p00000/p00000_s00.hea")
        return references

    def read(self, reference: Reference) -> Record:
        return read_record(reference, self.name, beat_symbols=BEAT_SYMBOLS, rhythm_names=RHYTHM_NAMES, complete=True)


def _folders(folder: Path, pattern: str) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if re.fullmatch(pattern, entry.name) and entry.is_dir())
