"""Icentia11K in its WFDB release: p00/p00000/p00000_s00.{hea,dat,atr}, or its segments in any other folders."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ecgray.databases.layouts import other_layout, refuse_part_of_icentia11k, require_folder
from ecgray.databases.record import Database, Found, Record, Reference
from ecgray.databases.walk import walk
from ecgray.databases.wfdb_files import read_record
from ecgray.errors import EcgrayError, counted

_SEGMENT = re.compile(r"(p\d{5})_s\d+")


@dataclass(frozen=True, kw_only=True)
class Icentia11k(Database):
    """Icentia11K: 11,000 patients with up to 50 segments each of one lead (a modified lead I), 250 Hz, 1,048,577
    samples (70 min) per segment; 541,794 annotated segments with N 2,061,141,216, Q 676,364,002, S 19,346,728 and
    V 17,203,041 beats; 17,236,067 rhythm zones: (N 16,074,753, (AFIB 848,238, (AFL 313,076, and of one beat 8,906.

    Segments are found by their names, in the root and below it, and the name says whose one is, whatever the folders.
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
        refuse_part_of_icentia11k(root)
        listing = walk(root)
        found = [(path, _SEGMENT.fullmatch(path.name)) for path in listing.headers]
        references = [
            Reference(record=path.name, patient=match[1], path=path) for path, match in found if match is not None
        ]
        if not references:
            if any(re.search(r"_batched(_lbls)?\.pkl(\.gz)?$", name) for name in os.listdir(root)):
                raise EcgrayError(
                    f"{self.name} must be its WFDB release, and {root} holds the pickled one (*_batched.pkl.gz), which"
                    " is not read since unpickling runs code; download the WFDB release from PhysioNet."
                )
            raise other_layout(root, self.name, "segments as p00/p00000/p00000_s00.hea", listing)
        references.sort(key=lambda reference: (reference.patient, reference.record))
        others = len(found) - len(references)
        left_out = []
        if others:
            left_out = [f"{counted(others, 'header')} not named as a segment (p00000_s00) left out"]
        return Found(references, [*left_out, *listing.remarks()])

    def read(self, reference: Reference) -> Record:
        return read_record(reference, self.name, complete=True)
