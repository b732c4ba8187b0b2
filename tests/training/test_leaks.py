"""What validation patients may decide, and what they may not: properties of random shard sets and settings."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecgray.config import flatten, from_dict, to_dict
from ecgray.databases.record import BEATS
from ecgray.errors import EcgrayError
from ecgray.models import FAMILIES
from ecgray.recipes import RECIPES
from ecgray.sampling.plan import Plan, SamplingConfig, make_plan
from ecgray.sampling.stream import open_stream, validation_batches
from ecgray.shards.archive import Archive, open_archive
from ecgray.shards.writer import write_shard_set
from ecgray.tasks import TASKS
from ecgray.tasks.base import IGNORED
from ecgray.training.config import DataConfig, PretrainConfig
from ecgray.training.labels import label_histogram
from ecgray.training.objectives import OBJECTIVES, CrossEntropy
from ecgray.training.run import run_hash
from ecgray.training.standardise import standardisation_of

BATCH = 16
several = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sampling_of(draw: st.DataObject) -> SamplingConfig:
    return SamplingConfig(
        frame_size=draw.draw(st.sampled_from([64, 256, 500])),
        frames_per_visit=draw.draw(st.integers(1, 40)),
        pool_patients=draw.draw(st.integers(1, 9)),
        lanes=draw.draw(st.sampled_from([1, 4, 8])),
        val_fraction=draw.draw(st.floats(0.1, 0.6)),
        val_frames_per_patient=draw.draw(st.integers(1, 9)),
        seed=draw.draw(st.integers(0, 99)),
    )


@several
@given(draw=st.data())
def test_no_patient_is_on_both_sides(small_archive: Path, draw: st.DataObject) -> None:
    """Signals, targets and negatives of training are of training patients, those of validation of the others."""
    archive, task = open_archive([small_archive]), TASKS[draw.draw(st.sampled_from(sorted(TASKS)))]()
    plan = make_plan(archive, sampling_of(draw), task, BATCH)
    world, first = draw.draw(st.integers(1, plan.sampling.lanes)), draw.draw(st.integers(0, 500))
    train = set()
    for rank in range(world):
        steps = {"first_step": first, "last_step": first + 3, "rank": rank, "world": world}
        for batch in open_stream(archive, plan, task, backend="local", **steps):  # type: ignore[arg-type]
            train |= set(archive.patient[batch.slot_record].ravel().tolist())
    val = {
        patient
        for batch in validation_batches(archive, plan, task, 7)
        for patient in archive.patient[batch.slot_record].ravel().tolist()
    }
    assert train <= set(plan.train_patients.tolist()) and val <= set(plan.val_patients.tolist())
    assert not set(plan.train_patients.tolist()) & set(plan.val_patients.tolist())


@several
@given(draw=st.data())
def test_validation_frames_are_fixed(small_archive: Path, draw: st.DataObject) -> None:
    """They depend on seed, frame size and the held-out patients; not on batch, workers, visits, pools or lanes."""
    archive, task = open_archive([small_archive]), TASKS[draw.draw(st.sampled_from(["beat", "rhythm"]))]()
    sampling, other = sampling_of(draw), sampling_of(draw)
    kept = {name: getattr(sampling, name) for name in ("frame_size", "val_fraction", "val_frames_per_patient", "seed")}
    one = make_plan(archive, sampling, task, BATCH)
    two = make_plan(archive, replace(other, **kept), task, draw.draw(st.sampled_from([8, 64])))
    two.frames(17, 23, [0])
    frames = frames_of(archive, one, task, 16, 1)
    assert frames == frames_of(archive, two, task, draw.draw(st.integers(1, 30)), draw.draw(st.integers(1, 5)))
    assert frames == sorted(zip(*(column.tolist() for column in one.validation()), strict=True))


def frames_of(archive: Archive, plan: Plan, task: Any, batch: int, world: int) -> list[tuple[int, int]]:
    """All validation frames over the ranks, sorted."""
    return sorted(
        pair
        for rank in range(world)
        for part in validation_batches(archive, plan, task, batch, rank, world)
        for pair in zip(part.record.tolist(), part.start.tolist(), strict=True)
    )


@pytest.mark.parametrize("task", ["beat", "rhythm", "heart_rate"])
def test_class_weights_are_of_training_frames_alone(
    task: str, random_records: ModuleType, tmp_path: Path, small_archive: Path
) -> None:
    """Annotations of validation patients are replaced: the weights stay. Those of one training patient: they move."""
    archive, asked = open_archive([small_archive]), TASKS[task]()
    sampling = SamplingConfig(frame_size=256, frames_per_visit=16, pool_patients=3, val_fraction=0.25)
    plan = make_plan(archive, sampling, asked, BATCH)
    objective = CrossEntropy(class_weights="balanced")
    weights = objective.weights(label_histogram(archive, plan, asked).counts)

    def weights_with_others(patients: np.ndarray, name: str) -> tuple[torch.Tensor | None, Plan]:
        changed = {archive.patient_names[code] for code in patients}
        records = [
            replace(r, beat_classes=(r.beat_classes + 1) % len(BEATS), rhythms=r.rhythms[:1], beats=r.beats // 2)
            if r.patient in changed
            else r
            for r in random_records.random_records()
        ]
        write_shard_set(records, tmp_path / name, shard_mb=0.3)
        again = open_archive([tmp_path / name])
        other = make_plan(again, sampling, asked, BATCH)
        # the split itself sees which classes a patient has: held fixed here, so that only the labels differ
        other.train_patients, other.val_patients = plan.train_patients, plan.val_patients
        other = pickle.loads(pickle.dumps(other))  # which forgets the pools it has drawn
        return objective.weights(label_histogram(again, other, asked).counts), other

    same, other = weights_with_others(plan.val_patients, "validation")
    assert all(np.array_equal(a, b) for a, b in zip(plan.frames(0, 9, [0]), other.frames(0, 9, [0]), strict=True))
    assert weights is not None and same is not None and torch.equal(weights, same)
    moved, _ = weights_with_others(plan.train_patients[:1], "training")
    assert moved is not None and not torch.equal(weights, moved)


def test_the_histogram_as_a_slow_loop(small_archive: Path) -> None:
    archive, task = open_archive([small_archive]), TASKS["beat"]()
    plan = make_plan(archive, SamplingConfig(frame_size=256, val_fraction=0.25), task, 8192)
    counts, dropped = [0] * len(task.classes), 0
    for batch in itertools.islice(open_stream(archive, plan, task, backend="local", first_step=0, last_step=9), 4):
        assert not set(archive.patient[batch.record].tolist()) & set(plan.val_patients.tolist())
        for target in batch.target.tolist():
            if target == IGNORED:
                dropped += 1
            else:
                counts[target] += 1
    got = label_histogram(archive, plan, task)
    assert got.counts.tolist() == counts and got.dropped == dropped


def test_standardisation_is_of_the_whole_set_as_the_paper_has_it(small_archive: Path) -> None:
    """papers.md W7: mean and sd of all the data, validation patients included, or the published pair."""
    archive = open_archive([small_archive])
    every = np.concatenate([archive.signal_mv(record)[0] for record in range(len(archive))]).astype(np.float64)
    assert standardisation_of(archive, DataConfig()) == pytest.approx((every.mean(), every.std()), rel=1e-6)
    assert standardisation_of(archive, DataConfig(standardisation="icentia11k")) == (0.0018, 1.3711)


def test_the_split_never_reads_a_signal(small_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Archive, "cut", None)
    monkeypatch.setattr(Archive, "signal_mv", None)
    archive = open_archive([small_archive])
    for task in TASKS.values():
        make_plan(archive, SamplingConfig(frame_size=256, val_fraction=0.25), task(), BATCH).frames(0, 3, range(8))


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.stage == "pretrain"][:4])
def test_every_field_of_a_config_is_in_its_hash(name: str) -> None:
    config = RECIPES[name].make()
    assert isinstance(config, PretrainConfig)
    values = to_dict(config)
    hashes = {run_hash(config, ["a"])}
    fields = sorted(flatten(values))
    for field in fields:
        if field not in ("data.shards", "model.name"):  # named by content; there is one family
            hashes.add(run_hash(changed(values, field.split(".")), ["a"]))
    hashes |= {run_hash(config, ["b"]), run_hash(config, ["a", "b"])}
    assert len(hashes) == len(fields) + 1
    assert run_hash(from_dict(PretrainConfig, json.loads(json.dumps(values))), ["a"]) in hashes


def changed(values: dict[str, Any], path: list[str]) -> PretrainConfig:
    """The config with another valid value of one field."""
    tables: dict[str, Any] = {"task": TASKS, "model": FAMILIES, "objective": OBJECTIVES}
    old: Any = values
    for key in path:
        old = old[key]
    candidates: list[Any] = [*tables.get(path[0], ()), "other", "code", "same", "icentia11k", "sizes", "bf16", "model"]
    candidates += ["drop", "v1", "lecun", "balanced", True, False, 0.5, 0.25, 3, 34, 64, None, [3, 3, 3, 3]]
    for value in candidates:
        copy = json.loads(json.dumps(values))
        if path[-1] == "name" and len(path) == 2:
            copy[path[0]] = {"name": value}
        else:
            place = copy
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        if value == old:
            continue
        try:
            return from_dict(PretrainConfig, copy)
        except (EcgrayError, TypeError, ValueError):
            continue
    raise AssertionError(f"no other value for {path}")


def test_a_changed_sample_changes_the_hash_of_the_run(
    random_records: ModuleType, make_config: Callable[..., PretrainConfig], tmp_path: Path
) -> None:
    records = random_records.random_records(patients=4, records=1, samples=3000)
    signal = records[2].signal.copy()
    signal[0, 1234] ^= 1
    variants = {"one": records, "again": records, "bit": [*records[:2], replace(records[2], signal=signal), records[3]]}
    for name, made in variants.items():
        write_shard_set(made, tmp_path / name, shard_mb=0.3)
    one, again, bit = (
        run_hash(make_config(), [m.hash for m in open_archive([tmp_path / name]).manifests]) for name in variants
    )
    assert one == again != bit
