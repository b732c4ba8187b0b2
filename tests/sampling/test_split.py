"""The split: by patient, the wanted share, every class on both sides wherever a division allows it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgray.errors import EcgrayError
from ecgray.sampling.split import split_patients


def tables(max_patients, max_classes):
    """Random (patients, classes) tables of who has what."""
    return st.integers(2, max_patients).flatmap(
        lambda p: st.integers(1, max_classes).flatmap(
            lambda c: st.lists(st.lists(st.booleans(), min_size=c, max_size=c), min_size=p, max_size=p)
        )
    )


def covered(has, val):
    """How many classes that two patients have are on both sides."""
    shared = has[:, has.sum(axis=0) >= 2]
    return int((shared[val].any(axis=0) & shared[~val].any(axis=0)).sum()), shared.shape[1]


def split(make_archive, has, fraction, seed):
    labels = [tuple(f"class{i}" for i in np.flatnonzero(row)) for row in has]
    archive = make_archive(np.arange(len(has)), np.full(len(has), 1000), labels=labels)
    train, val = split_patients(archive, fraction, seed)
    assert sorted([*train, *val]) == list(range(len(has)))
    chosen = np.zeros(len(has), bool)
    chosen[val] = True
    return chosen


@settings(max_examples=150)
@given(table=tables(8, 5), fraction=st.floats(0.1, 0.9), seed=st.integers(0, 5))
def test_small_splits_cover_what_any_division_could(make_archive, table, fraction, seed):
    """Against a slow loop over all divisions: whenever one covers every class, the split does."""
    has = np.array(table)
    try:
        val = split(make_archive, has, fraction, seed)
    except EcgrayError:
        assert not 0 < int(fraction * len(has) + 0.5) < len(has)
        return
    divisions = (np.arange(1, 2 ** len(has) - 1)[:, None] >> np.arange(len(has)) & 1).astype(bool)
    best = max(covered(has, division)[0] for division in divisions)
    got, classes = covered(has, val)
    assert 0 < val.sum() < len(has)
    if best == classes:
        assert got == classes


@settings(max_examples=60)
@given(seed=st.integers(0, 1000), patients=st.integers(60, 400), fraction=st.sampled_from([0.05, 0.1, 0.25]))
def test_large_splits_hold_out_the_share_and_cover_rare_classes(make_archive, seed, patients, fraction):
    draw = np.random.default_rng(seed)
    has = draw.random((patients, 8)) < [1, 0.9, 0.5, 0.1, 0.05, 0.02, 0.01, 0.005]
    has[draw.choice(patients, 2, replace=False), 7] = True
    val = split(make_archive, has, fraction, seed)
    got, classes = covered(has, val)
    assert got == classes
    assert int(fraction * patients + 0.5) <= val.sum() <= int(fraction * patients + 0.5) + 5


def test_beats_rhythms_and_labels_all_count(make_archive):
    beats, rhythms = np.zeros((40, 5), int), np.zeros((40, 6), int)
    beats[[3, 9], 4] = 7
    rhythms[[5, 11], 3] = 900
    labels = [("A",) if i in (17, 30) else () for i in range(40)]
    archive = make_archive(np.arange(40), np.full(40, 1000), beats, rhythms, labels)
    for seed in range(20):
        train, val = split_patients(archive, 0.1, seed)
        for pair in ({3, 9}, {5, 11}, {17, 30}):
            assert pair & set(train.tolist()) and pair & set(val.tolist())


def test_two_records_of_a_patient_stay_together(make_archive):
    archive = make_archive(np.repeat(np.arange(30), 3), np.full(90, 1000))
    train, val = split_patients(archive, 0.2, 0)
    assert len(val) == 6 and not set(train.tolist()) & set(val.tolist())


def test_each_patient_is_held_out_equally_often(make_archive):
    has = np.random.default_rng(0).random((40, 3)) < [1, 0.5, 0.25]
    held = sum(split(make_archive, has, 0.25, seed).astype(int) for seed in range(400))
    assert held.sum() == 400 * 10
    assert (np.abs(held - 100) < 6 * np.sqrt(400 * 0.25 * 0.75)).all()


def test_the_share_of_a_class_is_kept(make_archive):
    has = np.zeros((200, 2), bool)
    has[:, 0], has[:40, 1] = True, True
    assert {int(split(make_archive, has, 0.1, seed)[:40].sum()) for seed in range(30)} == {4}


def test_only_usable_records_count(make_archive):
    archive = make_archive([0, 0, 1, 2, 3], np.full(5, 1000), labels=[("A",), (), ("A",), ("A",), ()])
    train, val = split_patients(archive, 0.4, 0, np.array([False, True, True, True, False]))
    assert sorted([*train, *val]) == [0, 1, 2]
    assert len({1, 2} & set(val.tolist())) == 1


def test_copies_of_a_recording_stay_on_one_side(make_archive):
    """Patients 0, 3 and 5 are chained by two copies: they count as one, and the others are divided beside them."""
    archive = make_archive([0, 1, 2, 3, 3, 4, 5], np.full(7, 1000))
    archive.signal_hash[[0, 3]] = "copy"
    archive.signal_hash[[4, 6]] = "another copy"
    sides = set()
    for seed in range(20):
        train, val = split_patients(archive, 0.5, seed)
        assert sorted([*train, *val]) == [0, 1, 2, 3, 4, 5]
        assert {0, 3, 5} <= set(train.tolist()) or {0, 3, 5} <= set(val.tolist())
        sides.add(0 in val)
    assert sides == {True, False}


def test_three_patients_that_pairwise_share_a_class_still_split(make_archive):
    has = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1]], bool)
    for seed in range(10):
        assert covered(has, split(make_archive, has, 0.34, seed)) == (2, 3)


def test_hundreds_of_labels_that_two_patients_have(make_archive):
    """Labels typed by hand: as many steps as there are (label, side) pairs, more than Python calls can be nested."""
    has = np.repeat(np.eye(600, dtype=bool), 2, axis=0)
    assert covered(has, split(make_archive, has, 0.05, 0)) == (600, 600)


@pytest.mark.parametrize(("patients", "fraction"), [(1, 0.5), (2, 0.05), (9, 0.05), (4, 0.95)])
def test_a_side_without_patients_is_refused(make_archive, patients, fraction):
    archive = make_archive(np.arange(patients), np.full(patients, 1000))
    with pytest.raises(EcgrayError, match=f"patients on both sides, got {patients} usable patients?") as error:
        split_patients(archive, fraction, 0)
    advised = re.search(r"take a sampling.val_fraction of (\S+), or add patients", str(error.value))
    assert (advised is None) == (patients == 1)
    if advised is not None:
        training, validation = split_patients(archive, float(advised[1]), 0)
        assert len(training) and len(validation) == 1
