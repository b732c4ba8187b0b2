"""Files of a run that are not what the run wrote: one EcgrayError for each, and memory for none of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from ecgray.errors import EcgrayError
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.folder import read_config
from ecgray.finetuning.seed_state import History, load_state, save_state
from ecgray.finetuning.stored import read_environment, read_predictions, read_splits
from ecgray.models.classifier import Classifier
from ecgray.models.resnet import ResNet
from ecgray.training.checkpoint import LoopState, load_optimiser, load_rank, read_loop_state, save_optimiser, save_rank
from ecgray.training.model_folder import ModelDescription, read_json, read_model, save_model
from ecgray.training.run import RunFolder

DESCRIPTION = ModelDescription(
    model=ResNet(width=2), classes=("N", "A"), leads=("I",), fs=100.0, mean_mv=0.0, sd_mv=1.0, length_samples=400
)


def network() -> Classifier:
    return Classifier(DESCRIPTION.model.encoder(1), 2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", network(), DESCRIPTION)
    return tmp_path / "model"


def change(file: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(file.read_text())
    edit(values)
    file.write_text(json.dumps(values))


MODELS: list[Callable[[dict[str, Any]], Any]] = [
    lambda m: m["model"].update(width=10**6),
    lambda m: m["model"].update(width=2**62),
    lambda m: m["model"].update(name=["resnet"]),
    lambda m: m["model"].update(kernels=[10**9 + 1, 5, 5, 3]),
    lambda m: m.pop("model"),
    lambda m: m.update(length_samples=2**40),
    lambda m: m.update(length_samples=0),
    lambda m: m.update(leads=[]),
    lambda m: m.update(leads=["I"] * 1000),
    lambda m: m.update(fs=float("nan")),
    lambda m: m["standardisation"].update(sd_mv=0.0),
    lambda m: m["standardisation"].update(mean_mv=float("inf")),
    lambda m: m.update(frame_size=-1),
]


@pytest.mark.parametrize("edit", MODELS)
def test_descriptions(model: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    change(model / "model.json", edit)
    with pytest.raises(EcgrayError) as error:
        read_model(model)
    assert "\n" not in str(error.value)


def test_weights_of_another_type(model: Path) -> None:
    state = {name: tensor.double() for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(state, model / "model.safetensors")
    with pytest.raises(EcgrayError, match="float64"):
        read_model(model)


def test_json_too_deep(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"[" * 100_000)
    with pytest.raises(EcgrayError, match="must be a JSON file"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("field", ["step", "loss", "best_accuracy"])
def test_loop_states(tmp_path: Path, field: str) -> None:
    for value in ("x", [], -1 if field == "step" else {}):
        (tmp_path / "loop.json").write_text(json.dumps(vars(LoopState()) | {field: value}))
        with pytest.raises(EcgrayError, match=r"loop\.json"):
            read_loop_state(tmp_path)


def trained() -> tuple[Classifier, torch.optim.Optimizer]:
    one = network()
    optimiser = torch.optim.AdamW(one.parameters())
    one(torch.zeros(2, 1, 400)).sum().backward()
    optimiser.step()
    return one, optimiser


STATES: list[Callable[[dict[str, torch.Tensor], str], Any]] = [
    lambda t, key: t.update(x=t.pop(key)),
    lambda t, key: t.update({f"a/b/{key}": t.pop(key)}),
    lambda t, key: t.pop(key),
    lambda t, key: t.update({key: torch.zeros(8)}),
    lambda t, key: t.update({key: t[key].to(torch.int32)}),
]


@pytest.mark.parametrize("edit", STATES)
@pytest.mark.parametrize("what", ["step", "exp_avg"])
def test_moments(tmp_path: Path, edit: Callable[[dict[str, torch.Tensor], str], Any], what: str) -> None:
    one, optimiser = trained()
    file = tmp_path / "optimiser.safetensors"
    save_optimiser(file, one, optimiser)
    tensors = load_file(file)
    edit(tensors, f"{next(name for name, _ in one.named_parameters())}/{what}")
    save_file(tensors, file)
    with pytest.raises(EcgrayError):
        load_optimiser(file, *trained())
    save_state(tmp_path / "seed", one, optimiser, History(epoch=1), {})
    tensors = load_file(tmp_path / "seed")
    edit(tensors, f"optimiser/{next(name for name, _ in one.named_parameters())}/{what}")
    save_file(tensors, tmp_path / "seed", {"history": json.dumps(vars(History(epoch=1)))})
    with pytest.raises(EcgrayError):
        load_state(tmp_path / "seed", *trained())


@pytest.mark.parametrize("history", ["", "[]", "null", '{"epoch": "x"}', '{"epochs": [1]}', "[" * 100_000])
def test_histories(tmp_path: Path, history: str) -> None:
    one, optimiser = trained()
    save_state(tmp_path / "seed", one, optimiser, History(), {})
    save_file(load_file(tmp_path / "seed"), tmp_path / "seed", {"history": history})
    with pytest.raises(EcgrayError, match="whole state"):
        load_state(tmp_path / "seed", one, optimiser)


def test_random_states(tmp_path: Path) -> None:
    one = network()
    save_rank(tmp_path, 0, one)
    tensors = load_file(tmp_path / "rank-0.safetensors")
    for wrong in (torch.zeros(3, dtype=torch.uint8), torch.zeros(5056), None):
        changed = {k: v for k, v in tensors.items() if k != "random/cpu"}
        save_file(changed if wrong is None else changed | {"random/cpu": wrong}, tmp_path / "rank-0.safetensors")
        with pytest.raises(EcgrayError, match="random state"):
            load_rank(tmp_path, 0, one)


def test_lines_that_are_no_metrics_are_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics.write_bytes(b'{"step": 1}\n7\n{"step": "x"}\n{}\n\xff\n' + b"[" * 100_000 + b'\n{"step": 2}\n')
    run.rewind_metrics(2)
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]


def predictions() -> pd.DataFrame:
    return pd.DataFrame(
        {
            **{"seed": [0, 0], "split": ["val", "test"], "database": "d", "record": ["a", "b"], "patient": ["a", "b"]},
            **{"label": ["N", "A"], "predicted": ["N", "N"], "probability_N": [0.9, 0.6], "probability_A": [0.1, 0.4]},
        }
    )


TABLES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "no rows": lambda t: t.iloc[:0],
    "no probabilities": lambda t: t.drop(columns=["probability_N", "probability_A"]),
    "no seed": lambda t: t.drop(columns="seed"),
    "a seed in words": lambda t: t.assign(seed="one"),
    "another split": lambda t: t.assign(split="middle"),
    "a label of no class": lambda t: t.assign(label="X"),
    "a null": lambda t: t.assign(label=["N", None]),
    "not finite": lambda t: t.assign(probability_N=float("nan")),
}


@pytest.mark.parametrize("name", TABLES)
def test_predictions(tmp_path: Path, name: str) -> None:
    file = tmp_path / "predictions.parquet"
    predictions().to_parquet(file, index=False)
    assert read_predictions(file).equals(predictions())
    TABLES[name](predictions()).to_parquet(file, index=False)
    with pytest.raises(EcgrayError, match=r"predictions\.parquet") as error:
        read_predictions(file)
    assert "\n" not in str(error.value)
    file.write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    with pytest.raises(EcgrayError, match="whole Parquet file"):
        read_splits(file)


def test_environments(tmp_path: Path) -> None:
    good: dict[str, Any] = {"records": 3, "manifest_hashes": ["x"], "pretrained": None}
    for wrong in ({"records": "3"}, {"manifest_hashes": 1}, {"pretrained": 7}, {"pretrained": {"folder": 1}}):
        (tmp_path / "environment.json").write_text(json.dumps(good | wrong))
        with pytest.raises(EcgrayError, match=next(iter(wrong))):
            read_environment(tmp_path)


def test_configs(tmp_path: Path, labelled: Path, small: Callable[..., FinetuneConfig]) -> None:
    from ecgray.config import to_dict

    config = replace(small(labelled))
    edits: list[Callable[[dict[str, Any]], Any]] = [
        lambda c: c["data"].update(fs=float("inf")),
        lambda c: c["data"].update(fs=10**400),
        lambda c: c["model"].update(name={}),
        lambda c: c.update(data=None),
        lambda c: c["model"].update(depth=18.0),
    ]
    for edit in edits:
        (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
        assert read_config(tmp_path) == config
        change(tmp_path / "config.json", edit)
        with pytest.raises(EcgrayError, match=r"config\.json"):
            read_config(tmp_path)
