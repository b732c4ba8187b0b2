"""A recording as every database gives it, and the two vocabularies all databases share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ecgray.config import Named

BEATS: tuple[str, ...] = ("undefined", "normal", "pac", "aberrated", "pvc")
RHYTHMS: tuple[str, ...] = ("undefined", "noise", "normal", "afib", "aflut", "other")


class RecordRefused(Exception):
    """A recording that cannot be used. ``str()`` of it is the one reason, without the record's name; ``advice``: how
    who meets it in every record goes on, where there is a way."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Where a record is, found without reading any signal.

    ``path`` is what the database's ``read`` needs (for WFDB: the path without suffix).
    ``labels`` and ``attributes`` are those that a table beside the records gives.
    """

    record: str
    patient: str
    path: Path
    labels: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Found(tuple[Reference, ...]):
    """The references that ``find`` found. ``remarks``: what a user should hear of the folder, a line each."""

    remarks: tuple[str, ...]

    def __new__(cls, references: Iterable[Reference] = (), remarks: Iterable[str] = ()) -> Found:
        found = super().__new__(cls, references)
        found.remarks = tuple(remarks)
        return found


@dataclass(frozen=True, kw_only=True)
class Record:
    """One recording. Physical value in mV = (signal - baseline) / gain, per lead.

    signal: int16 (leads, samples); gain: float64 (leads,) ADC units per mV; baseline: float64 (leads,) ADC units;
    beats: sample positions int64 (n,), ascending; beat_classes: uint8 (n,) indices into BEATS;
    rhythms: int64 (m, 3) rows of start, end (half-open, samples), class index into RHYTHMS, ascending, disjoint;
    gaps: int64 (k, 2) rows of start, end (half-open, samples), ascending and apart: where samples are missing and the
    signal is interpolated (``gaps.py``);
    annotated: whether the source says where the beats are (False: no beats known, not "no beats"; a file that names
    rhythms alone leaves the beats unknown);
    source_symbols: counts of the source's own annotation symbols and aux texts, before mapping;
    requantisation_uv: worst error in microvolt where the source did not fit int16, else 0;
    notes: what is remarked of it, kind (of ``notes.KINDS``) -> what, in few words.
    """

    id: str
    patient: str
    database: str
    fs: float
    leads: tuple[str, ...]
    signal: npt.NDArray[np.int16]
    gain: npt.NDArray[np.float64]
    baseline: npt.NDArray[np.float64]
    beats: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    beat_classes: npt.NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    rhythms: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 3), np.int64))
    gaps: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    annotated: bool = False
    labels: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    source_symbols: Mapping[str, int] = field(default_factory=dict)
    requantisation_uv: float = 0.0
    notes: Mapping[str, str] = field(default_factory=dict)


class Database(Named):
    """A source of records: a frozen dataclass whose fields are its options (a lead, a label version).

    A new database is one module with one subclass, and one line in ``ecgray.databases.DATABASES``.
    """

    title: ClassVar[str]
    licence: ClassVar[str]
    citation: ClassVar[str]

    def find(self, root: Path) -> Sequence[Reference]:
        """All records under ``root``, sorted by patient and record id; reads no signal. ``Found`` where there is
        something to say of the folder: what was left out, and how patients are told apart.

        Raises EcgrayError when the folder is missing, empty, or of another layout.
        """
        raise NotImplementedError

    def read(self, reference: Reference) -> Record:
        """The record. Raises RecordRefused(reason) for one that cannot be used, and nothing else."""
        raise NotImplementedError
