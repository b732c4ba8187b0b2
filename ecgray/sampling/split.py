"""Training and validation patients: by patient, at random, every class on both sides where that can be."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ecgray.errors import EcgrayError, counted
from ecgray.sampling.draws import Draw, generator

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_TRIES = 20_000
"""Steps of the search for a cover; the tables of real databases need some tens."""


class ClassTable(Protocol):
    """What the split reads of an archive: one entry per record."""

    patient: npt.NDArray[np.int32]
    beat_totals: npt.NDArray[np.int64]
    rhythm_samples: npt.NDArray[np.int64]

    @property
    def signal_hash(self) -> npt.NDArray[np.object_]: ...

    @property
    def labels(self) -> list[tuple[str, ...]]: ...


def owners(patient: npt.ArrayLike, signal_hash: npt.ArrayLike) -> Ints:
    """(n,) of records' patients and hashes of their signals: codes from 0 on of who must stay on one side, a patient,
    joined with whoever has a copy of one of their recordings."""
    people = pd.factorize(np.asarray(patient))[0].astype(np.int64)
    signal = pd.factorize(np.asarray(signal_hash))[0] + people.max(initial=-1) + 1
    size = int(signal.max(initial=-1)) + 1
    edges = coo_matrix((np.ones(len(people), bool), (people, signal)), shape=(size, size))
    return pd.factorize(connected_components(edges, directed=False)[1][people])[0].astype(np.int64)


def owner_classes(archive: ClassTable, usable: Bools) -> tuple[Ints, Bools]:
    """(owner (r,), has (p, classes)): of every usable record the row of its owner in ``has``, which says what classes
    the owners' records hold; owners come in the order of their least patient codes.

    Classes are the beat classes, the rhythm classes and the labels, in that order (labels sorted).
    """
    records = np.flatnonzero(usable)
    patient = np.asarray(archive.patient)[records]
    owner = owners(patient, np.asarray(archive.signal_hash)[records])
    least = np.full(int(owner.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, owner, patient)
    row = np.argsort(np.argsort(least))[owner]
    names = sorted({label for record in records for label in archive.labels[record]})
    column = {name: i for i, name in enumerate(names)}
    labelled = np.zeros((len(records), len(names)), bool)
    pairs = [(i, column[label]) for i, record in enumerate(records) for label in archive.labels[record]]
    if pairs:
        labelled[tuple(np.array(pairs).T)] = True
    by_record = np.hstack([archive.beat_totals[records] > 0, archive.rhythm_samples[records] > 0, labelled])
    if not len(records):
        return row, by_record
    order = np.argsort(row, kind="stable")
    first = np.searchsorted(row[order], np.arange(len(least)))
    return row, np.logical_or.reduceat(by_record[order], first, axis=0)


def split_patients(
    archive: ClassTable, val_fraction: float, seed: int, usable: Bools | None = None
) -> tuple[Ints, Ints]:
    """(training, validation) patient codes, both ascending; a function of the records table and the seed alone.

    ``round(val_fraction * patients)`` patients are held out (papers.md W8), drawn in even steps through the patients
    sorted by the rarest class that they have; those who share a recording count as one. Where this leaves a side
    without a class that two patients have, patients that cover both sides are chosen first (which may hold out a few
    more) and the rest is drawn as before. Only where no division at all covers every class on both sides (three
    patients that pairwise share one), some are missing.
    ``usable`` (records,): records that count, all by default.

    Raises EcgrayError when a side would be empty.
    """
    if usable is None:
        usable = np.ones(len(archive.patient), bool)
    owner, has = owner_classes(archive, usable)
    held_out = int(val_fraction * len(has) + 0.5)
    if not 0 < held_out < len(has):
        advice = f"take a sampling.val_fraction of {-(-100 // len(has)) / 100:g}, or add" if len(has) > 1 else "add"
        raise EcgrayError(
            f"The split must leave patients on both sides, got {counted(len(has), 'usable patient')} and val_fraction "
            f"{val_fraction:g}, which holds out {held_out}; {advice} patients."
        )
    draw = generator(seed, Draw.SPLIT)
    shared = has[:, has.sum(axis=0) >= 2]
    val = _draw_stratified(np.arange(len(has)), shared, held_out, draw)
    if not _covers(shared, val):
        side = _cover(shared, draw)
        free = np.flatnonzero(side < 0)
        wanted = min(max(held_out - int((side == 1).sum()), 0), len(free))
        val = np.sort(np.concatenate([np.flatnonzero(side == 1), _draw_stratified(free, shared[free], wanted, draw)]))
    chosen = np.zeros(len(has), bool)
    chosen[val] = True
    patient, on_val = np.asarray(archive.patient)[usable].astype(np.int64), chosen[owner]
    return np.unique(patient[~on_val]), np.unique(patient[on_val])


def _draw_stratified(rows: Ints, has: Bools, count: int, draw: np.random.Generator) -> Ints:
    """``count`` of ``rows``: even steps from a random phase through the rows, sorted by their rarest class."""
    if not count:
        return np.empty(0, np.int64)
    rarity = np.where(has, has.sum(axis=0), len(has) + 1)
    stratum = rarity.argmin(axis=1) if has.shape[1] else np.zeros(len(has), np.int64)
    order = np.lexsort((draw.permutation(len(rows)), np.where(has.any(axis=1), stratum, has.shape[1])))
    picked = ((np.arange(count) + draw.random()) * len(rows) / count).astype(np.int64)
    return np.sort(rows[order[picked]])


def _covers(has: Bools, val: Ints) -> bool:
    held = has[val].sum(axis=0)
    return bool(((held > 0) & (held < has.sum(axis=0))).all())


def _cover(has: Bools, draw: np.random.Generator) -> npt.NDArray[np.int8]:
    """(p,) 1 validation, 0 training, -1 free: few patients that put every class on both sides.

    Depth-first search over (class, side) pairs still missing, the pair with the fewest candidates first; patients with
    equal classes count as one candidate. After ``_TRIES`` steps the best assignment seen is taken.
    """
    order = draw.permutation(len(has))
    _, signature = np.unique(has, axis=0, return_inverse=True)
    signature = signature.ravel()
    side = np.full(len(has), -1, np.int8)
    held, free = np.zeros((2, has.shape[1]), np.int64), has.sum(axis=0)  # patients per class, by side and of no side
    best, best_missing = side.copy(), 2 * has.shape[1] + 1
    levels: list[tuple[int, list[int]]] = []  # side, and candidates for it, the one that is on it last

    def put(row: int, s: int, sign: int = 1) -> None:
        side[row] = s if sign > 0 else -1
        held[s] += sign * has[row]
        free[...] -= sign * has[row]

    for _ in range(_TRIES):
        missing = np.argwhere(held == 0)
        if len(missing) < best_missing:
            best, best_missing = side.copy(), len(missing)
        if not len(missing):
            break
        s, column = missing[free[missing[:, 1]].argmin()].tolist()
        candidates = order[has[order, column] & (side[order] < 0)]
        _, kinds = np.unique(signature[candidates], return_index=True)
        levels.append((s, candidates[np.sort(kinds)[::-1]].tolist()))
        while levels and not levels[-1][1]:  # no candidate is left: take back the one of the level before
            levels.pop()
            if levels:
                s, rows = levels[-1]
                put(rows.pop(), s, sign=-1)
        if not levels:
            break
        s, rows = levels[-1]
        put(rows[-1], s)
    return best
