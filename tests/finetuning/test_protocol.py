"""The protocol end to end on small labelled sets."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score

from ecgray.config import to_dict
from ecgray.errors import EcgrayError
from ecgray.finetuning import protocol as protocol_module
from ecgray.finetuning import seed_run
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.folder import read_config, seed_folder
from ecgray.finetuning.protocol import finetune
from ecgray.finetuning.ray_seeds import seed_share
from ecgray.finetuning.seed_run import SeedJob, initial_network
from ecgray.models.classifier import Classifier
from ecgray.training.model_folder import ModelDescription, save_model
from ecgray.training.objectives import Focal
from ecgray.training.room import places
from tests.finetuning.conftest import make_record, make_records, write_shards

Small = Callable[..., FinetuneConfig]


@pytest.fixture(scope="module")
def finished(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ecgray.finetuning.config import FinetuneDataConfig, ProtocolConfig
    from ecgray.models.resnet import ResNet

    config = FinetuneConfig(
        data=FinetuneDataConfig(shards=str(labelled), fs=100.0, seconds=10.0),
        protocol=ProtocolConfig(seeds=2, epochs=3, batch_size=16),
        model=ResNet(width=4),
    )
    return finetune(config, tmp_path_factory.mktemp("finished") / "run")


def test_scores_equal_a_recomputation_from_the_predictions(finished: Path) -> None:
    scores = json.loads((finished / "scores.json").read_text())
    predictions = pd.read_parquet(finished / "predictions.parquet")
    assert scores["classes"] == ["N", "A", "O", "~"]
    for split in ("val", "test"):
        part = predictions[predictions["split"] == split]
        expected = [
            f1_score(p["label"], p["predicted"], labels=scores["classes"], average="macro", zero_division=0)
            for _, p in part.groupby("seed")
        ]
        assert scores["splits"][split]["scores"]["macro_f1"]["values"] == pytest.approx(expected)
    probability = predictions[[f"probability_{c}" for c in scores["classes"]]].to_numpy()
    assert np.allclose(probability.sum(1), 1, atol=1e-5)
    assert (np.array(scores["classes"])[probability.argmax(1)] == predictions["predicted"]).all()


def test_predictions_are_of_the_records_in_the_splits(finished: Path) -> None:
    predictions = pd.read_parquet(finished / "predictions.parquet")
    splits = pd.read_parquet(finished / "splits.parquet")
    columns = ["seed", "split", "database", "record", "patient", "label"]
    expected = splits.loc[splits["split"].isin(["val", "test"]), columns]
    assert sorted(map(tuple, predictions[columns].to_numpy())) == sorted(map(tuple, expected.to_numpy()))


def test_the_best_epoch_is_the_one_kept(finished: Path) -> None:
    for seed in range(2):
        folder = seed_folder(finished, seed)
        epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        complete = json.loads((folder / "complete").read_text())
        best = max(epochs, key=lambda row: row["val_macro_f1"])
        assert complete["best_epoch"] == best["epoch"] and len(epochs) == 3
        scores = json.loads((finished / "scores.json").read_text())
        assert scores["splits"]["val"]["scores"]["macro_f1"]["values"][seed] == pytest.approx(best["val_macro_f1"])
        assert not (folder / seed_run.STATE).exists()


def test_a_loaded_network_predicts_the_same(finished: Path, labelled: Path) -> None:
    from ecgray.shards.archive import open_archive
    from ecgray.training.model_folder import read_model

    network, description = read_model(seed_folder(finished, 1))
    archive = open_archive([labelled])
    row = pd.read_parquet(finished / "predictions.parquet").query("seed == 1 and split == 'test'").iloc[0]
    record = int(np.flatnonzero(archive.record_id == row["record"])[0])
    standardised = (archive.signal_mv(record) - description.mean_mv) / description.sd_mv
    padded = np.zeros((1, 1, 1000), np.float32)
    kept = standardised[:, -1000:]
    padded[0, :, 1000 - kept.shape[1] :] = kept
    with torch.inference_mode():
        probability = network(torch.from_numpy(padded)).softmax(1)[0].numpy()
    expected = row[[f"probability_{c}" for c in description.classes]].to_numpy(float)
    assert np.allclose(probability, expected, atol=1e-5)
    assert (description.mean_mv, description.sd_mv) == (archive.mean_mv, archive.sd_mv)


def test_config_and_environment_are_kept(finished: Path, labelled: Path) -> None:
    assert read_config(finished).data.shards == str(labelled.resolve())
    environment = json.loads((finished / "environment.json").read_text())
    assert {"versions", "git_commit", "config_hash", "manifest_hashes", "sources"} <= environment.keys()


def test_learns(labelled: Path, small: Small, tmp_path: Path) -> None:
    config = small(labelled, protocol={"seeds": 1, "epochs": 12, "batch_size": 8})
    scores = json.loads((finetune(config, tmp_path / "run") / "scores.json").read_text())
    assert scores["splits"]["test"]["scores"]["balanced_accuracy"]["mean"] > 0.6


def test_the_test_is_opened_once_and_last(
    labelled: Path, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which records are read from the shards, and what every call of ``predict`` gets, in order."""
    events: list[tuple[str, Any]] = []
    prepare, predict = protocol_module.prepare, seed_run.predict

    def spy_prepare(archive: Any, index: Any, how: Any) -> Any:
        events.append(("read", set(archive.record_id[index])))
        return prepare(archive, index, how)

    def spy_predict(network: Any, signals: Any, rows: Any, config: Any) -> Any:
        events.append(("predict", len(signals)))
        return predict(network, signals, rows, config)

    monkeypatch.setattr(protocol_module, "prepare", spy_prepare)
    monkeypatch.setattr(seed_run, "predict", spy_predict)
    run = finetune(small(labelled), tmp_path / "run")
    splits = pd.read_parquet(run / "splits.parquet")
    test = set(splits.loc[splits["split"] == "test", "record"])
    reads = [i for i, (kind, _) in enumerate(events) if kind == "read"]
    assert len(reads) == 2 and not events[0][1] & test and events[reads[1]][1] == test
    after = events[reads[1] + 1 :]
    assert after == [("predict", len(test))] * 2
    # 3 epochs and the chosen network on validation, of both seeds, all before.
    assert reads[1] == 1 + 2 * 4


def test_no_test_at_all(labelled: Path, small: Small, tmp_path: Path) -> None:
    run = finetune(small(labelled, data={"test_shards": "none"}, protocol={"epochs": 1}), tmp_path / "run")
    scores = json.loads((run / "scores.json").read_text())
    assert list(scores["splits"]) == ["val"]
    assert set(pd.read_parquet(run / "splits.parquet")["split"]) == {"train", "val", "unused"} - {"unused"}


def test_a_test_set_of_its_own(labelled: Path, small: Small, tmp_path: Path) -> None:
    other = write_shards(tmp_path / "other", make_records({"N": 6, "A": 5}, first=5000, seed=1, fs=150.0))
    config = small(labelled, data={"test_shards": str(other)}, protocol={"epochs": 1})
    run = finetune(config, tmp_path / "run")
    scores = json.loads((run / "scores.json").read_text())["splits"]["test"]
    assert scores["records"] == [11, 11]
    strange = write_shards(tmp_path / "strange", [make_record(9000, "W"), make_record(9001, "N")])
    with pytest.raises(EcgrayError, match="got also W"):
        finetune(small(labelled, data={"test_shards": str(strange)}), tmp_path / "run2")
    with pytest.raises(EcgrayError, match="two sides of a split"):
        finetune(small(labelled, data={"test_shards": str(labelled)}), tmp_path / "run3")
    assert not (tmp_path / "run2").exists() and not (tmp_path / "run3").exists()


def test_labels_of_the_wild(small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = make_records({"N": 30, "A": 20})
    records += [make_record(900, ()), make_record(901, ("N", "A")), make_record(902, ())]
    shards = write_shards(tmp_path / "wild", records)
    with caplog.at_level(logging.WARNING):
        run = finetune(small(shards, protocol={"seeds": 1, "epochs": 1}), tmp_path / "run")
    assert "2 without a label and 1 with several of 53" in caplog.text
    assert json.loads((run / "environment.json").read_text())["records_left_out"] == 3
    assert len(pd.read_parquet(run / "splits.parquet")) == 50
    nameless = write_shards(tmp_path / "nameless", [make_record(1, ()), make_record(2, ())])
    with pytest.raises(EcgrayError, match="one label each, got 2 without"):
        finetune(small(nameless), tmp_path / "run2")


def test_records_caps_the_set(labelled: Path, small: Small, tmp_path: Path) -> None:
    run = finetune(small(labelled, data={"records": 60}, protocol={"seeds": 1, "epochs": 1}), tmp_path / "run")
    splits = pd.read_parquet(run / "splits.parquet")
    assert splits["label"].value_counts().to_dict() == {"N": 30, "A": 12, "O": 12, "~": 6}


def test_an_existing_run_is_refused_and_resume_skips_complete_seeds(
    labelled: Path, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(labelled, protocol={"seeds": 1, "epochs": 2})
    run = finetune(config, tmp_path / "run")
    with pytest.raises(EcgrayError, match="--resume"):
        finetune(config, run)
    with pytest.raises(EcgrayError, match=r"protocol.epochs \(2 -> 5\)"):
        finetune(replace(config, protocol=replace(config.protocol, epochs=5)), run, resume=True)
    before = (seed_folder(run, 0) / "model.safetensors").stat().st_mtime_ns
    more = finetune(replace(config, protocol=replace(config.protocol, seeds=2)), run, resume=True)
    assert (seed_folder(run, 0) / "model.safetensors").stat().st_mtime_ns == before
    assert json.loads((more / "scores.json").read_text())["seeds"] == [0, 1]
    whole = finetune(small(labelled, protocol={"seeds": 2, "epochs": 2}), tmp_path / "whole")
    assert_same_run(more, whole)
    with pytest.raises(EcgrayError, match=r"protocol.seeds \(2 -> 1, which may only grow\)"):
        finetune(config, run, resume=True)
    assert_same_run(more, whole)


def assert_same_run(first: Path, second: Path) -> None:
    for name in ("predictions.parquet", "splits.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(first / name), pd.read_parquet(second / name), check_exact=True)
    assert json.loads((first / "scores.json").read_text()) == json.loads((second / "scores.json").read_text())
    for folder in sorted((second / "seeds").iterdir()):
        ours = load_file(first / "seeds" / folder.name / "model.safetensors")
        theirs = load_file(folder / "model.safetensors")
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        metrics = [
            [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]
            for path in (first / "seeds" / folder.name / "metrics.jsonl", folder / "metrics.jsonl")
        ]
        assert metrics[0] == metrics[1]


CHILD = """
import json, sys
from pathlib import Path
import torch
from ecgray.config import from_dict
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.protocol import finetune
torch.set_num_threads(1)
finetune(from_dict(FinetuneConfig, json.loads(sys.argv[1])), Path(sys.argv[2]), resume=True)
"""


def test_killed_and_resumed_equals_uninterrupted(labelled: Path, small: Small, tmp_path: Path) -> None:
    """Killed while seed 1 trains, seed 0 having chosen its epoch; then gone on with in this process."""
    config = small(labelled, protocol={"seeds": 2, "epochs": 6})
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", CHILD, json.dumps(to_dict(config)), str(killed)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    metrics, deadline = seed_folder(killed, 1) / "metrics.jsonl", time.monotonic() + 300
    while not metrics.is_file() or metrics.read_text().count("\n") < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (seed_folder(killed, 0) / "chosen.json").exists() and not (seed_folder(killed, 1) / "chosen.json").exists()
    assert_same_run(finetune(config, killed, resume=True), finetune(config, tmp_path / "whole"))


def test_stops_by_patience(labelled: Path, small: Small, tmp_path: Path) -> None:
    """A learning rate that changes nothing: train accuracy never improves after the first epochs."""
    base = small(labelled, protocol={"seeds": 1, "epochs": 40, "patience": 2})
    still = replace(base, optimiser=replace(base.optimiser, learning_rate=1e-30))
    for monitor in ("train_accuracy", "val_loss"):
        config = replace(still, protocol=replace(still.protocol, monitor=monitor))
        run = finetune(config, tmp_path / monitor)
        rows = [json.loads(line) for line in (seed_folder(run, 0) / "metrics.jsonl").read_text().splitlines()]
        values = [-row["train_accuracy"] if monitor == "train_accuracy" else row["val_loss"] for row in rows]
        last_better = max(i for i, v in enumerate(values) if v < min(values[:i], default=np.inf))
        assert len(rows) == last_better + 1 + 2 < 40


def test_a_head_is_the_same_with_and_without_pretraining(labelled: Path, small: Small, tmp_path: Path) -> None:
    job = seed_job(small(labelled), tmp_path)
    fresh, other = initial_network(job), initial_network(replace(job, seed=1))
    assert not torch.equal(fresh.head.weight, other.head.weight)
    save_model(tmp_path / "pretrained", Classifier(other.encoder, 4), job.description)
    pretrained = initial_network(replace(job, pretrained=tmp_path / "pretrained"))
    assert torch.equal(pretrained.encoder.stem.conv.weight, other.encoder.stem.conv.weight)
    assert torch.equal(pretrained.head.weight, fresh.head.weight)


def test_frozen_blocks_do_not_move(labelled: Path, small: Small, tmp_path: Path) -> None:
    config = small(labelled, protocol={"seeds": 1, "epochs": 2}, freeze_blocks=3)
    run = finetune(config, tmp_path / "run")
    start = initial_network(seed_job(config, tmp_path)).state_dict()
    end = load_file(seed_folder(run, 0) / "model.safetensors")
    moved = {name for name, tensor in end.items() if not torch.equal(tensor, start[name])}
    assert not any(name.startswith(("encoder.stem.", "encoder.stages.0.", "encoder.stages.1.0.")) for name in moved)
    assert {"encoder.stages.1.1.convs.0.weight", "head.weight"} <= moved


def test_a_loss_that_is_not_finite_stops_with_advice(labelled: Path, small: Small, tmp_path: Path) -> None:
    config = small(labelled)
    config = replace(config, optimiser=replace(config.optimiser, learning_rate=1e30))
    with pytest.raises(EcgrayError, match="loss must stay finite"):
        finetune(config, tmp_path / "run")
    # One batch: its loss is taken before the step that ruins the weights.
    config = replace(config, protocol=replace(config.protocol, batch_size=1000))
    with pytest.raises(EcgrayError, match=r"finite, got [0-9.]+ in training and nan in validation"):
        finetune(config, tmp_path / "one-batch")
    assert not list(tmp_path.glob("*/seeds/*/chosen.json"))


def seed_job(config: FinetuneConfig, folder: Path) -> SeedJob:
    nothing = np.empty(0, np.int64)
    return SeedJob(
        config=config,
        description=ModelDescription(
            model=config.model, classes=("N", "A", "O", "~"), leads=("lead0",), fs=100, mean_mv=0, sd_mv=1
        ),
        folder=folder,
        seed=0,
        splits=pd.DataFrame(),
        train=nothing,
        train_labels=nothing,
        val=nothing,
        val_labels=nothing,
        pretrained=None,
    )


def test_other_objectives_and_bf16(labelled: Path, small: Small, tmp_path: Path) -> None:
    config = small(labelled, data={"records": 60}, protocol={"seeds": 1, "epochs": 2}, precision="bf16")
    config = replace(config, objective=Focal(class_weights="balanced"))
    config = replace(config, optimiser=replace(config.optimiser, clip_norm=1.0, weight_decay=0.01))
    run = finetune(config, tmp_path / "run")
    rows = [json.loads(line) for line in (seed_folder(run, 0) / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(np.isfinite(row["train_loss"]) for row in rows)
    assert read_config(run) == config


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([(2, 0)], 2, (1, 0)),
        ([(2, 0)], 3, (0.66, 0)),
        ([(16, 0)], 5, (3, 0)),
        ([(1, 0)], 10, (0.1, 0)),
        ([(8, 1)], 10, (0.8, 0.1)),
        ([(40, 4)], 10, (4, 0.3333)),
        ([(8, 1)] * 50, 10, (8, 1)),
        ([(64, 8)], 1, (64, 1)),
        ([(4, 0)] * 3, 2, (4, 0)),
        ([(4, 0)] * 2, 1, (4, 0)),
        ([(0, 0), (16, 0), (1, 0)], 3, (5, 0)),
        ([(64, 0), (8, 1), (4, 1)], 2, (4, 1)),
        ([(64, 0), (8, 1), (4, 1)], 6, (1, 0.3333)),
        ([(0, 4), (8, 1)], 2, (4, 0.5)),  # no CPU, no place
        ([(0, 0)], 2, None),
        ([], 1, None),
    ],
)
def test_shares_of_cpus_and_gpus(
    nodes: list[tuple[float, float]], workers: int, expected: tuple[float, float] | None
) -> None:
    """Parts of one node and at most one card, so that all workers fit in at once."""
    cluster = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    found = seed_share(cluster, workers)
    assert found == expected
    if found is not None:
        assert places(cluster, *found) >= workers


def test_seeds_wait_for_the_nodes_that_an_autoscaler_starts() -> None:
    """Each as one that has a card, or a node, to itself: not all of them on the one that came first."""
    head, gpu, cpu = {"CPU": 0.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}
    assert seed_share([head, gpu], 10, growing=True) == (8, 1)
    assert seed_share([head, gpu, gpu], 10, growing=True) == (8, 1)
    assert seed_share([head, cpu], 10, growing=True) == (8, 0)
    assert seed_share([head, cpu, cpu], 1, growing=True) == (8, 0)
    assert seed_share([head], 10, growing=True) is None


def test_seeds_that_fit_on_no_node_are_refused(labelled: Path, small: Small, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=0, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        with pytest.raises(EcgrayError, match=r"^2 seeds side by side need .* with 0 CPUs") as error:
            finetune(small(labelled, protocol={"seeds": 2}), tmp_path / "run", workers=2)
        assert "\n" not in str(error.value)
    finally:
        ray.shutdown()


def test_on_ray_equals_in_this_process(labelled: Path, small: Small, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    config = small(labelled, protocol={"seeds": 2, "epochs": 2})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = finetune(config, tmp_path / "alone")
    finally:
        torch.set_num_threads(threads)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        together = finetune(config, tmp_path / "together", workers=2)
        with pytest.raises(EcgrayError, match="loss must stay finite"):
            wild = replace(config, optimiser=replace(config.optimiser, learning_rate=1e30))
            finetune(wild, tmp_path / "wild", workers=2)
    finally:
        ray.shutdown()
    assert_same_run(alone, together)


def test_a_seed_whose_worker_always_dies_ends_in_one_line(
    labelled: Path, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")

    def die(*given: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(protocol_module, "choose_epoch", die)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        with pytest.raises(EcgrayError, match=r"one was lost 4 times, the last time by: .*then --resume") as error:
            finetune(small(labelled, protocol={"seeds": 1}), tmp_path / "run", workers=1)
    finally:
        ray.shutdown()
    assert "\n" not in str(error.value)


def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    labelled: Path, tmp_path: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EcgrayError, match="frozen blocks must lie between 0 and the model's 8, got 9"):
        finetune(small(labelled, freeze_blocks=9), tmp_path / "run")
    with pytest.raises(EcgrayError, match="1 x 10 samples"):
        finetune(small(labelled, data={"seconds": 0.1}, protocol={"batch_size": 1}), tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(protocol_module, "memory_limit", lambda: 100_000)
        with pytest.raises(EcgrayError, match=r"must fit into memory, got \d+ records of 1 x \d+ samples, .* GB, and"):
            finetune(small(labelled), tmp_path / "run")
    assert not (tmp_path / "run").exists()
