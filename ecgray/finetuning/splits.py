"""Who trains, validates and tests: pure functions of record names, patients, labels and seeds.

A split holds whole patients and keeps the ratio of classes. The order in which records come makes no difference,
and a smaller training subset lies inside the larger ones of the same seed, so runs on subsets stay paired.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgray.errors import EcgrayError
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.labelled import listed
from ecgray.sampling.split import owners

PAPER_CLASSES = ("N", "A", "O", "~")
COLUMNS = ["seed", "split", "database", "record", "patient", "label", "signal_hash"]

_CAP, _TEST, _VALIDATION = range(3)


def class_names(labels: pd.Series) -> tuple[str, ...]:
    """The classes that occur: of CinC 2017 in the paper's order (N, A, O, ~), others sorted by name."""
    found = set(labels)
    if found <= set(PAPER_CLASSES):
        return tuple(name for name in PAPER_CLASSES if name in found)
    return tuple(sorted(found))


def cap_records(records: pd.DataFrame, count: int | None, split_seed: int) -> pd.DataFrame:
    """About ``count`` records, stratified by label and by whole patients; all of them where there are fewer."""
    if count is None or count >= len(records):
        return records
    return records[_draw(records, count / len(records), (split_seed, _CAP))]


def make_splits(records: pd.DataFrame, test: pd.DataFrame | None, config: FinetuneConfig) -> pd.DataFrame:
    """One row per seed and record, with the columns of ``COLUMNS``; split is train, val, test or unused.

    records: the labelled set with columns database, record, patient, label, signal_hash (others are kept);
    test: records of another shard set that are the test (may be empty: no test), None to take ``test_fraction`` of
    ``records``. In that case the rest is the pool, else all of ``records`` is: the pool always stands for
    1 - ``test_fraction`` of the entire data set, so validation is val_fraction / (1 - test_fraction) of it (W63: 5 %
    of all, 6.25 % of the pool). Raises EcgrayError when a side would be empty or there is but one class.
    """
    if records["label"].nunique() < 2:
        raise EcgrayError(
            f"Finetuning needs labelled records of two classes or more, got {records['label'].nunique()}; "
            "give a shard set with labels."
        )
    protocol = config.protocol
    records = records.sort_values(["database", "record"], kind="stable").reset_index(drop=True)
    own = test is None
    held_out = _draw(records, protocol.test_fraction if own else 0.0, (protocol.split_seed, _TEST))
    pool, test = records[~held_out], records[held_out] if test is None else test
    share = 1 - protocol.test_fraction
    parts = []
    for seed in protocol.seed_numbers:
        stream = (protocol.split_seed, _VALIDATION, seed)
        val = _draw(pool, protocol.val_fraction / share, stream)
        rest = pool[~val]
        wanted = config.data.train_fraction / share * len(pool) / max(len(rest), 1)
        # Within rounding of everything that is left, everything is taken.
        used = (wanted > 1 - 2 / max(len(rest), 1)) | _draw(rest, min(wanted, 1.0), stream)
        split = np.full(len(pool), "val", object)
        split[~val] = np.where(used, "train", "unused")
        parts.append(pd.concat([pool.assign(split=split), test.assign(split="test")]).assign(seed=seed))
        _check_sides(parts[-1], own, seed)
    return pd.concat(parts, ignore_index=True)


def _check_sides(part: pd.DataFrame, own_test: bool, seed: int) -> None:
    needed = ["train", "val", "test"] if own_test else ["train", "val"]
    counts = part["split"].value_counts()
    empty = [name for name in needed if not counts.get(name, 0)]
    classes = part.loc[part["split"] == "train", "label"].nunique()
    if empty or classes < 2:
        got = ", ".join(f"{name} {counts.get(name, 0)}" for name in needed)
        raise EcgrayError(
            f"Every split needs records, and training two classes, got of seed {seed} as records {got}, "
            f"as classes in training {classes}; use more records or larger fractions."
        )
    side = part[part["split"] != "unused"].assign(owner=_owners(part[part["split"] != "unused"]))
    shared = side[side.groupby("owner")["split"].transform("nunique") > 1]
    if len(shared):
        names = shared.loc[shared["split"] == "test", "record"]
        raise EcgrayError(
            "No patient and no copy of a recording may be on two sides of a split, got these test records of patients "
            f"who also train or validate: {listed(names)}; take them out of one of the two shard sets."
        )


def _owners(records: pd.DataFrame) -> npt.NDArray[np.int64]:
    return owners(records["database"].astype(str) + "\0" + records["patient"].astype(str), records["signal_hash"])


def _draw(records: pd.DataFrame, fraction: float, seed: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """(n,) marks about ``fraction`` of the records, whole owners, stratified by label.

    An owner belongs to the rarest of their records' labels. Each class gives its share by largest remainder, at least
    one owner and never its last one (of a class with a single owner, that one stays unmarked). A larger fraction
    with the same seed marks a superset, up to one owner per class at the rounding.
    """
    marked = np.zeros(len(records), bool)
    if not len(records) or fraction <= 0:
        return marked
    order = np.lexsort((records["record"].to_numpy(str), records["database"].to_numpy(str)))
    owner = _owners(records.iloc[order])
    label = pd.Categorical(records["label"].iloc[order].astype(str)).codes.astype(np.int64)
    rarity = np.argsort(np.argsort(np.bincount(label), kind="stable"), kind="stable")
    sizes = np.bincount(owner)
    stratum = np.full(len(sizes), len(rarity), np.int64)
    np.minimum.at(stratum, owner, rarity[label])
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    chosen = np.zeros(len(sizes), bool)
    totals = np.bincount(stratum, weights=sizes, minlength=len(rarity))
    for index, target in enumerate(_apportion(totals, fraction)):
        members = shuffled[stratum[shuffled] == index]
        reached = np.concatenate([[0], np.cumsum(sizes[members])])
        count = int(np.argmin(np.abs(reached - target)))
        chosen[members[: min(max(count, 1), len(members) - 1)]] = True
    marked[order] = chosen[owner]
    return marked


def _apportion(totals: npt.NDArray[Any], fraction: float) -> npt.NDArray[np.int64]:
    """Whole numbers near totals * fraction whose sum is round(sum(totals) * fraction) (largest remainder)."""
    exact = totals * fraction
    floor = np.floor(exact + 1e-9).astype(np.int64)
    missing = round(float(totals.sum() * fraction)) - int(floor.sum())
    floor[np.argsort(floor - exact, kind="stable")[: max(missing, 0)]] += 1
    return floor
