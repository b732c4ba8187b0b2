"""Splits: shares, strata, patients, copies, and that nothing but names and seeds decides them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ecgray.errors import EcgrayError
from ecgray.finetuning.config import FinetuneConfig, FinetuneDataConfig, ProtocolConfig
from ecgray.finetuning.labelled import overlap, refuse_overlap
from ecgray.finetuning.splits import cap_records, class_names, make_splits


def table(labels: list[str], patients: list[str] | None = None, hashes: list[str] | None = None) -> pd.DataFrame:
    names = [f"R{i:05d}" for i in range(len(labels))]
    return pd.DataFrame(
        {
            "index": range(len(labels)),
            "database": "x",
            "record": names,
            "patient": patients or names,
            "label": labels,
            "signal_hash": hashes or names,
        }
    )


def config(train_fraction: float = 0.75, **protocol: object) -> FinetuneConfig:
    return FinetuneConfig(
        data=FinetuneDataConfig(shards="x", train_fraction=train_fraction),
        protocol=ProtocolConfig(**protocol),  # type: ignore[arg-type]
    )


def names(splits: pd.DataFrame, seed: int, split: str) -> set[str]:
    return set(splits.loc[(splits["seed"] == seed) & (splits["split"] == split), "record"])


def cinc(scale: float = 1.0) -> pd.DataFrame:
    counts = {"N": 5076, "A": 758, "O": 2415, "~": 279}
    return table([label for label, count in counts.items() for _ in range(round(count * scale))])


def test_the_paper_on_cinc2017() -> None:
    """W63: of 8,528 records 20 % test (1,706), 5 % validation (426), 75 % train (6,396), class ratios kept."""
    records = cinc()
    splits = make_splits(records, None, config())
    sizes = splits.groupby("seed")["split"].value_counts().unstack()
    assert (sizes["test"] == 1706).all() and (sizes["val"] == 426).all() and (sizes["train"] == 6396).all()
    shares = records["label"].value_counts(normalize=True)
    for (_, split), part in splits.groupby(["seed", "split"]):
        worst = (part["label"].value_counts() - shares * len(part)).abs().max()
        assert worst <= 2, split


def test_the_test_set_is_fixed_and_the_rest_redrawn() -> None:
    splits = make_splits(cinc(0.1), None, config(seeds=10))
    assert len({frozenset(names(splits, s, "test")) for s in range(10)}) == 1
    assert len({frozenset(names(splits, s, "val")) for s in range(10)}) == 10
    one = make_splits(cinc(0.1), None, config(seeds=1, first_seed=7))
    assert names(one, 7, "val") == names(splits, 7, "val")
    other = make_splits(cinc(0.1), None, config(split_seed=1))
    assert names(other, 0, "test") != names(splits, 0, "test")


def test_subsets_are_shares_of_the_entire_set_and_lie_inside_each_other() -> None:
    """W71, A20: 25 and 50 % of all records, test and validation kept."""
    full, half, quarter = (make_splits(cinc(), None, config(share, seeds=3)) for share in (0.75, 0.5, 0.25))
    for seed in range(3):
        assert len(names(half, seed, "train")) == 4264 and len(names(quarter, seed, "train")) == 2132
        assert names(half, seed, "test") == names(full, seed, "test")
        assert names(quarter, seed, "val") == names(full, seed, "val")
        assert len(names(half, seed, "train") - names(full, seed, "train")) == 0
        assert len(names(quarter, seed, "train") - names(half, seed, "train")) <= 4
        assert len(names(half, seed, "unused")) == 8528 - 1706 - 426 - 4264


@pytest.mark.parametrize("train_fraction, expected", [(0.75, 6396), (0.25, 2132)])
def test_with_the_test_set_elsewhere_the_whole_set_is_the_pool(train_fraction: float, expected: int) -> None:
    """6,822 records are the paper's 80 %: the same numbers of training and validation records as with all 8,528."""
    pool = cinc(0.8)
    outside = table(["N", "A"] * 5).assign(record=[f"T{i}" for i in range(10)], patient=[f"T{i}" for i in range(10)])
    outside["signal_hash"] = outside["record"]
    for test in (outside, pool.iloc[:0]):
        splits = make_splits(pool, test, config(train_fraction, seeds=2))
        assert abs(len(names(splits, 0, "train")) - expected) <= 2
        assert abs(len(names(splits, 0, "val")) - 426) <= 1
        assert len(names(splits, 1, "test")) == len(test)


@settings(max_examples=40)
@given(st.data())
def test_rules_hold_for_any_set(data: st.DataObject) -> None:
    count = data.draw(st.integers(40, 200))
    owner = data.draw(st.lists(st.integers(0, count // 2), min_size=count, max_size=count))
    labels = data.draw(st.lists(st.sampled_from("NNNAO"), min_size=count, max_size=count))
    records = table(labels, [f"p{i}" for i in owner])
    per_class = records.groupby("label")["patient"].nunique()
    assume(len(per_class) >= 2 and per_class.min() >= 8)
    settings_ = config(seeds=2)
    splits = make_splits(records, None, settings_)
    shuffled = records.sample(frac=1, random_state=data.draw(st.integers(0, 99)))
    again = make_splits(shuffled, None, settings_)
    largest = records.groupby("patient").size().max()
    for seed in range(2):
        part = splits[splits["seed"] == seed]
        assert sorted(part["record"]) == sorted(records["record"])
        assert part.groupby("patient")["split"].nunique().max() == 1
        for split in ("train", "val", "test"):
            assert names(splits, seed, split) == names(again, seed, split)
        assert abs(len(names(splits, seed, "test")) - 0.2 * count) <= 3 * largest + 3
        assert abs(len(names(splits, seed, "val")) - 0.05 * count) <= 3 * largest + 3


def test_copies_of_a_recording_stay_on_one_side() -> None:
    records = cinc(0.05)
    copies = records.sample(60, random_state=0)
    twins = copies.assign(record="Z" + copies["record"], patient="Z" + copies["patient"])
    splits = make_splits(pd.concat([records, twins]), None, config(seeds=3))
    sides = splits.groupby(["seed", "signal_hash"])["split"].nunique()
    assert sides.max() == 1


def test_a_patient_of_an_outside_test_set_may_not_train() -> None:
    pool = cinc(0.02)
    test = pool.iloc[:3].assign(record=["T1", "T2", "T3"], signal_hash=["a", "b", "c"])
    with pytest.raises(EcgrayError, match=r"two sides of a split.*T1, T2, T3"):
        make_splits(pool, test, config())


def test_rare_classes_reach_every_side() -> None:
    splits = make_splits(table(["N"] * 50 + ["A"] * 3), None, config(seeds=4))
    assert (splits.groupby(["seed", "split"])["label"].nunique() == 2).all()


def test_cap_is_stratified_and_fixed() -> None:
    records = cinc()
    few = cap_records(records, 600, 0)
    assert len(few) == 600 and few["label"].value_counts().to_dict() == {"N": 357, "O": 170, "A": 53, "~": 20}
    assert few["record"].tolist() == cap_records(records, 600, 0)["record"].tolist()
    assert len(cap_records(records, 10_000, 0)) == len(cap_records(records, None, 0)) == 8528


def test_class_names() -> None:
    assert class_names(pd.Series(["~", "N", "O", "A", "N"])) == ("N", "A", "O", "~")
    assert class_names(pd.Series(["O", "N"])) == ("N", "O")
    assert class_names(pd.Series(["sinus", "N", "afib"])) == ("N", "afib", "sinus")


def test_refusals() -> None:
    with pytest.raises(EcgrayError, match="two classes"):
        make_splits(table(["N"] * 30), None, config())
    said = "got of seed 0 as records train 2, val 0, test 0, as classes in training 2; use more records"
    with pytest.raises(EcgrayError, match=said):
        make_splits(table(["N", "A"]), None, config())
    with pytest.raises(EcgrayError, match="at most 1"):
        replace(config(), protocol=ProtocolConfig(test_fraction=0.3))
    assert np.isclose(config().data.train_fraction, 0.75)


@settings(max_examples=25)
@given(st.data())
def test_no_patient_and_no_copy_is_on_two_sides_or_the_split_is_refused(data: st.DataObject) -> None:
    """Patients and copies of recordings at random, over databases; a test set from elsewhere shares some of them."""
    count = data.draw(st.integers(40, 120))
    numbers = st.lists(st.integers(0, count // 2), min_size=count, max_size=count)
    owner, signal = data.draw(numbers), data.draw(st.lists(st.integers(0, 4 * count), min_size=count, max_size=count))
    labels = data.draw(st.lists(st.sampled_from("NNNAO"), min_size=count, max_size=count))
    records = table(labels, [f"p{i}" for i in owner], [f"h{i}" for i in signal])
    records["database"] = data.draw(st.lists(st.sampled_from("xy"), min_size=count, max_size=count))
    outside = data.draw(st.integers(0, 6))
    rest, test = records.iloc[outside:], records.iloc[:outside] if data.draw(st.booleans()) else None
    try:
        splits = make_splits(rest, test, config(seeds=2, first_seed=data.draw(st.integers(0, 9))))
    except EcgrayError as error:
        assert "two" in str(error) or "Every split needs" in str(error)
        return
    used = splits[splits["split"] != "unused"]
    for _, part in used.groupby("seed"):
        rows = list(part[["split", "database", "patient", "signal_hash"]].itertuples(index=False))
        for one, other in combinations(rows, 2):  # as a slow loop
            if one.split != other.split:
                assert (one.database, one.patient) != (other.database, other.patient)
                assert one.signal_hash != other.signal_hash


@settings(max_examples=60)
@given(st.data())
def test_overlap_as_a_slow_loop(data: st.DataObject) -> None:
    """By (database, record), (database, patient) or signal; a name in another database is another's."""
    rows = st.tuples(st.sampled_from("xy"), st.integers(0, 20), st.integers(0, 40), st.integers(0, 200))
    ours, seen = (data.draw(st.lists(rows, min_size=1, max_size=12)) for _ in range(2))
    columns = ["database", "record", "patient", "signal_hash"]
    frames = [pd.DataFrame(part, columns=columns).astype(dict.fromkeys(columns, str)) for part in (ours, seen)]
    expected = [
        index
        for index, (database, record, patient, signal) in enumerate(ours)
        if any((database, record) == (d, r) or (database, patient) == (d, p) or signal == s for d, r, p, s in seen)
    ]
    assert overlap(*frames).index.tolist() == expected
    if expected:
        with pytest.raises(EcgrayError, match="No test record may be among"):
            refuse_overlap(*frames, "the pretraining run's")
    else:
        refuse_overlap(*frames, "the pretraining run's")
