"""No record on two sides: pretraining and test, finetuning and evaluation."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ecgray.config import to_dict
from ecgray.errors import EcgrayError
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.evaluate import evaluate
from ecgray.finetuning.folder import seed_folder
from ecgray.finetuning.pretrained import open_pretrained
from ecgray.finetuning.protocol import finetune
from ecgray.models.base import Model
from ecgray.models.classifier import Classifier
from ecgray.models.resnet import ResNet
from ecgray.shards.archive import open_archive
from ecgray.tasks import TASKS
from ecgray.training.config import DataConfig, PretrainConfig
from ecgray.training.model_folder import ModelDescription, save_model, write_json
from tests.finetuning.conftest import make_record, make_records, write_shards

Small = Callable[..., FinetuneConfig]


def pretraining_run(
    run: Path, shards: Path, *, model: Model | None = None, leads: tuple[str, ...] = ("lead0",)
) -> Path:
    """What a pretraining run on ``shards`` leaves behind, as far as finetuning looks at it."""
    model = model or ResNet(width=4)
    task = TASKS["beat"]()
    config = PretrainConfig(recipe="test", data=DataConfig(shards=(str(shards),)), task=task, model=model)
    torch.manual_seed(99)
    save_model(
        run / "checkpoints" / "step-000001",
        Classifier(model.encoder(len(leads)), len(task.classes)),
        ModelDescription(
            model=model,
            classes=task.classes,
            leads=leads,
            fs=100.0,
            mean_mv=0.0,
            sd_mv=1.0,
            frame_size=512,
            task=task,
            manifest_hashes=tuple(manifest.hash for manifest in open_archive([shards]).manifests),
        ),
    )
    write_json(run / "config.json", to_dict(config))
    (run / "best").symlink_to("checkpoints/step-000001")
    return run


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records that have nothing to do with ``labelled``."""
    return write_shards(tmp_path_factory.mktemp("others") / "shards", make_records({"N": 12, "A": 6}, first=2000))


def test_starts_from_the_pretrained_encoder_and_records_its_origin(
    labelled: Path, others: Path, small: Small, tmp_path: Path
) -> None:
    run = pretraining_run(tmp_path / "pretrained", others)
    config = small(labelled, protocol={"seeds": 1, "epochs": 1}, pretrained=str(run), freeze_blocks=8)
    finetuned = finetune(config, tmp_path / "run")
    before = load_file(run / "best" / "model.safetensors")
    after = load_file(seed_folder(finetuned, 0) / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("encoder."))
    assert after["head.weight"].shape[0] == 4
    origin = json.loads((finetuned / "environment.json").read_text())["pretrained"]
    assert origin["test_records_compared"] is True and origin["fs"] == 100.0


def test_a_best_checkpoint_was_chosen_among_all_of_its_run_and_a_named_one_by_who_names_it(
    others: Path, tmp_path: Path
) -> None:
    run = pretraining_run(tmp_path / "pretrained", others)
    shutil.copytree(run / "checkpoints" / "step-000001", run / "checkpoints" / "step-000003")
    lines = [{"kind": "validation", "step": step, "accuracy": 1 / step} for step in (1, 2, 3, 4)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "train", "st')
    assert open_pretrained(run).origin()["chosen_at"] == 4
    assert open_pretrained(run / "checkpoints" / "step-000001").chosen_at == 4, "which is the best one"
    assert open_pretrained(run / "checkpoints" / "step-000003").chosen_at == 3
    (run / "metrics.jsonl").unlink()
    assert open_pretrained(run).chosen_at == 1
    (run / "best").unlink()
    assert open_pretrained(run / "checkpoints" / "step-000001").chosen_at == 1
    shutil.copytree(run / "checkpoints" / "step-000001", tmp_path / "model")
    assert open_pretrained(tmp_path / "model").chosen_at is None, "a model folder outside a run"


def test_a_planted_leak_is_refused_with_the_list(labelled: Path, others: Path, small: Small, tmp_path: Path) -> None:
    """By name or patient, although the signal differs; by signal, although name and patient differ."""
    config = small(labelled, protocol={"seeds": 1, "epochs": 1})
    splits = pd.read_parquet(finetune(config, tmp_path / "run") / "splits.parquet")
    test = sorted(splits.loc[splits["split"] == "test", "record"])[:3]
    train = sorted(splits.loc[splits["split"] == "train", "record"])[:3]
    archive = open_archive([labelled])
    number = {name: i for i, name in enumerate(archive.record_id)}
    every = {r.id: r for r in make_records({"N": 60, "A": 24, "O": 24, "~": 12})}
    innocent = make_records({"N": 5}, first=3000)
    same_name = replace(innocent[0], id=test[0])
    same_signal = replace(every[test[1]], id="other-name", patient="other-name")
    same_patient = replace(innocent[1], id="another-day", patient=every[test[2]].patient)
    planted = [*innocent[2:], same_name, same_signal, same_patient, *(every[name] for name in train)]
    run = pretraining_run(tmp_path / "pretrained", write_shards(tmp_path / "planted", planted))
    with pytest.raises(EcgrayError, match=rf"got 3: {test[0]}, {test[1]}, {test[2]};"):
        finetune(replace(config, pretrained=str(run)), tmp_path / "leaky")
    assert not (tmp_path / "leaky").exists()
    # Training records may well have been pretrained on: without a test there is nothing to leak.
    none = replace(config, pretrained=str(run), data=replace(config.data, test_shards="none"))
    finetune(none, tmp_path / "no-test")
    assert number.keys() >= set(test)


def test_the_very_shard_set_is_refused_even_when_it_moved(
    labelled: Path, others: Path, small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = Path(shutil.copytree(labelled, tmp_path / "moved"))
    run = pretraining_run(tmp_path / "pretrained", moved)
    shutil.rmtree(moved)
    config = small(labelled, protocol={"seeds": 1, "epochs": 1}, pretrained=str(run))
    with pytest.raises(EcgrayError, match="very shard set"):
        finetune(config, tmp_path / "run")
    away = Path(shutil.copytree(others, tmp_path / "away"))
    run = pretraining_run(tmp_path / "pretrained2", away)
    shutil.rmtree(away)
    with caplog.at_level(logging.WARNING):
        finetuned = finetune(replace(config, pretrained=str(run)), tmp_path / "run2")
    assert "could not be compared" in caplog.text
    assert json.loads((finetuned / "environment.json").read_text())["pretrained"]["test_records_compared"] is False


def test_a_pretraining_run_that_does_not_say_what_it_has_seen_is_refused(
    labelled: Path, others: Path, small: Small, tmp_path: Path
) -> None:
    run = pretraining_run(tmp_path / "pretrained", others)
    config = run / "config.json"
    config.write_text(config.read_text()[:-40])
    with pytest.raises(EcgrayError, match=str(config)):
        finetune(small(labelled, pretrained=str(run)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_that_does_not_fit_is_refused(labelled: Path, others: Path, small: Small, tmp_path: Path) -> None:
    config = small(labelled, protocol={"seeds": 1, "epochs": 1})
    wide = pretraining_run(tmp_path / "wide", others, model=ResNet(width=8))
    with pytest.raises(EcgrayError, match="differs from its width 8"):
        finetune(replace(config, pretrained=str(wide)), tmp_path / "run")
    three = pretraining_run(tmp_path / "three", others, leads=("a", "b", "c"))
    with pytest.raises(EcgrayError, match="got 3 and 1"):
        finetune(replace(config, pretrained=str(three)), tmp_path / "run")
    with pytest.raises(EcgrayError, match="differs from its stages 4"):
        own = pretraining_run(tmp_path / "own", others, model=ResNet(width=4))
        finetune(replace(config, model=ResNet(width=4, stages=3), pretrained=str(own)), tmp_path / "run")
    with pytest.raises(EcgrayError, match="not there"):
        finetune(replace(config, pretrained=str(tmp_path / "nothing")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_lead_is_inflated_to_those_of_the_data(others: Path, small: Small, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "three", make_records({"N": 24, "A": 12}, first=4000, leads=3))
    run = pretraining_run(tmp_path / "pretrained", others)
    config = small(shards, protocol={"seeds": 1, "epochs": 1}, pretrained=str(run), freeze_blocks=1)
    finetuned = finetune(config, tmp_path / "run")
    before = load_file(run / "best" / "model.safetensors")["encoder.stem.conv.weight"]
    after = load_file(seed_folder(finetuned, 0) / "model.safetensors")["encoder.stem.conv.weight"]
    assert after.shape[1] == 3 and torch.allclose(after[:, 1], before[:, 0] / 3)


@pytest.fixture(scope="module")
def evaluated(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ecgray.finetuning.config import FinetuneDataConfig, ProtocolConfig

    config = FinetuneConfig(
        data=FinetuneDataConfig(shards=str(labelled), fs=100.0, seconds=10.0, train_fraction=0.25),
        protocol=ProtocolConfig(seeds=2, epochs=2, batch_size=16),
        model=ResNet(width=4),
    )
    return finetune(config, tmp_path_factory.mktemp("evaluated") / "run")


def test_evaluate_scores_every_seed_with_the_stored_preprocessing(evaluated: Path, tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", make_records({"N": 9, "A": 7}, first=6000, fs=200.0))
    out = evaluate(evaluated, data, tmp_path / "out")
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert predictions.groupby("seed").size().to_dict() == {0: 16, 1: 16}
    scores = json.loads((out / "scores.json").read_text())
    accuracy = (predictions["label"] == predictions["predicted"]).groupby(predictions["seed"]).mean()
    assert scores["splits"]["test"]["scores"]["accuracy"]["values"] == pytest.approx(accuracy.tolist())
    assert json.loads((out / "evaluation.json").read_text())["records"] == 16

    from ecgray import load

    model, archive = load(evaluated, seed=1), open_archive([labelled_at_rate(tmp_path)])
    with torch.inference_mode():
        for record in range(4):
            logits = model(archive.signal_mv(record)[None, :, -1000:])  # what an evaluation keeps of longer ones
            row = predictions.query("seed == 1").set_index("record").loc[archive.record_id[record]]
            expected = row[[f"probability_{c}" for c in model.classes]].to_numpy(float)
            # The same records resampled by ingest, in int16, instead of by the evaluation.
            assert np.allclose(logits.softmax(1)[0].numpy(), expected, atol=0.02)
    with pytest.raises(EcgrayError, match="new folder"):
        evaluate(evaluated, data, out)


def labelled_at_rate(tmp_path: Path) -> Path:
    from ecgray.shards.ingest import ingest
    from tests.finetuning.conftest import Memory

    ingest(Memory(), tmp_path, tmp_path / "at_rate", fs=100.0, workers=0, progress=False)
    return tmp_path / "at_rate"


def test_evaluate_refuses_what_the_run_has_seen(evaluated: Path, labelled: Path, tmp_path: Path) -> None:
    splits = pd.read_parquet(evaluated / "splits.parquet")
    used = set(splits.loc[splits["split"] != "unused", "record"])
    every = make_records({"N": 60, "A": 24, "O": 24, "~": 12})
    unused = [record for record in every if record.id not in used]
    assert unused
    with pytest.raises(EcgrayError, match=rf"got {len(used)}: R.* and {len(used) - 20} more"):
        evaluate(evaluated, labelled, tmp_path / "out")
    seen = next(record for record in every if record.id in used)
    disguised = replace(seen, id="new", patient="new")
    with pytest.raises(EcgrayError, match="got 1: new;"):
        evaluate(evaluated, write_shards(tmp_path / "d", [*unused, disguised]), tmp_path / "out")
    later = make_record(5000, "N", patient=seen.patient)
    with pytest.raises(EcgrayError, match="got 1: R5000;"):
        evaluate(evaluated, write_shards(tmp_path / "l", [*unused, later]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    evaluate(evaluated, write_shards(tmp_path / "u", unused), tmp_path / "out")


def test_evaluate_refuses_what_the_run_was_pretrained_on(
    labelled: Path, others: Path, small: Small, tmp_path: Path
) -> None:
    pretrained = pretraining_run(tmp_path / "pretrained", others)
    run = finetune(small(labelled, protocol={"seeds": 1, "epochs": 1}, pretrained=str(pretrained)), tmp_path / "run")
    with pytest.raises(EcgrayError, match="was pretrained on, got 18"):
        evaluate(run, others, tmp_path / "out")
    shutil.rmtree(pretrained)  # the finetuning run knows where it came from
    with pytest.raises(EcgrayError, match="was pretrained on, got 18"):
        evaluate(run, others, tmp_path / "out")
