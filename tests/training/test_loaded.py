"""Loading runs: preprocessing inside, the right network of several, bad folders refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

import ecgray
from ecgray.errors import EcgrayError
from ecgray.models import ResNet
from ecgray.training.config import PretrainConfig
from ecgray.training.loaded import prepare
from ecgray.training.model_folder import ModelDescription, build_network, read_model, save_model
from ecgray.training.pretraining import pretrain

DESCRIPTION = ModelDescription(
    model=ResNet(width=8), classes=("a", "b"), leads=("I", "II"), fs=250.0, mean_mv=0.1, sd_mv=0.5
)


def saved(folder: Path, description: ModelDescription = DESCRIPTION, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    network = build_network(description.model, len(description.leads), len(description.classes), None, None)
    save_model(folder, network, description)
    return network.eval()


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    description = replace(DESCRIPTION, length_samples=900, padding="before", config_hash="x", manifest_hashes=("y",))
    network = saved(tmp_path, description)
    again, its_description = read_model(tmp_path)
    assert its_description == description
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert json.loads((tmp_path / "model.json").read_text())["standardisation"] == {"mean_mv": 0.1, "sd_mv": 0.5}


@pytest.mark.parametrize("padding", ["before", "after"])
@pytest.mark.parametrize("samples", [7, 10])
def test_recordings_are_standardised_then_brought_to_length(padding: str, samples: int) -> None:
    description = replace(DESCRIPTION, length_samples=10, padding=padding)  # type: ignore[arg-type]
    signal = torch.randn(1, 2, samples)
    got = prepare(signal, description).numpy()
    assert got.shape == (1, 2, 10)
    for lead in range(2):
        values = [(float(value) - 0.1) / 0.5 for value in signal[0, lead]]
        expected = ([0.0] * 10 + values)[-10:] if padding == "before" else (values + [0.0] * 10)[:10]
        np.testing.assert_allclose(got[0, lead], expected, rtol=1e-5, atol=1e-6)


def test_a_signal_beyond_the_networks_input_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, replace(DESCRIPTION, length_samples=500, padding="before"))
    model = ecgray.load(tmp_path)
    said = r"at most 500 samples \(2 s at 250 Hz\), got 501 \(2.004 s\); give windows of it, or use 'ecgray predict'"
    with torch.no_grad():
        assert model(torch.randn(1, 2, 500)).shape == (1, 2)
        for ask in (model, model.features):
            with pytest.raises(EcgrayError, match=said):
                ask(torch.randn(1, 2, 501))


def test_arrays_are_taken_as_tensors(tmp_path: Path) -> None:
    saved(tmp_path)
    model = ecgray.load(tmp_path)
    signal = np.random.default_rng(0).normal(size=(2, 2, 400)).astype(np.float32)
    adc = (1000 * signal).astype(">i2")[..., ::-1]
    with torch.no_grad():
        assert torch.equal(model(signal), model(torch.from_numpy(signal)))
        assert torch.equal(model.features(signal.astype(np.float64)), model.features(torch.from_numpy(signal)))
        assert torch.equal(model(adc), model(torch.from_numpy(adc.astype(np.int64))))
    for wrong, got in ((signal.astype(str), "an array of <U32"), (signal.tolist(), "list")):
        with pytest.raises(EcgrayError, match=f"a numpy array of numbers, got {got}; make it one"):
            model(wrong)
    with pytest.raises(EcgrayError, match=r"\(batch, 2, samples\) in mV, got \(2, 400\)"):
        model(signal[0])


def test_features_are_what_the_head_sees(tmp_path: Path) -> None:
    network = saved(tmp_path, replace(DESCRIPTION, length_samples=500, padding="after"))
    model = ecgray.load(tmp_path)
    signal = torch.randn(3, 2, 400)
    with torch.no_grad():
        features = model.features(signal)
        assert features.shape == (3, 64) and torch.equal(network.head(features), model(signal))
    assert all(name.startswith("network.") for name in model.state_dict())


def test_a_signal_at_another_rate(tmp_path: Path) -> None:
    saved(tmp_path, replace(DESCRIPTION, length_samples=500, padding="before"))
    model = ecgray.load(tmp_path)
    signal = torch.randn(2, 2, 600, dtype=torch.float64)
    at_250 = resample_poly(((signal - 0.1) / 0.5).numpy(), 5, 6, axis=-1) * 0.5 + 0.1
    with torch.no_grad():
        torch.testing.assert_close(model(signal, fs=300), model(at_250), rtol=1e-5, atol=1e-5)
        assert torch.equal(model(at_250, fs=250), model(at_250))
        with pytest.raises(EcgrayError, match="at most 500 samples"):
            model(signal, fs=200)
    for fs in (0, -1, float("nan"), 249.997):
        with pytest.raises(EcgrayError, match=f"brings to 250 Hz, got {fs}; resample it first"):
            model(signal, fs=fs)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("as_numpy", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_what_is_not_finite_is_refused(tmp_path: Path, value: float, as_numpy: bool, dtype: torch.dtype) -> None:
    saved(tmp_path, replace(DESCRIPTION, length_samples=500, padding="before"))
    model = ecgray.load(tmp_path)
    signal = torch.zeros(2, 2, 400, dtype=dtype)
    signal[1, 0, 7:9] = value
    for ask in (model, model.features):
        with pytest.raises(
            EcgrayError, match="The signal must be finite, got 2 of 1600 values that are NaN or infinite;"
        ):
            ask(signal.numpy() if as_numpy else signal, fs=300)


def test_a_pretraining_run_loads_its_best_checkpoint(
    make_config: Callable[..., PretrainConfig], tmp_path: Path
) -> None:
    run = pretrain(make_config(steps=3), tmp_path / "run", show_progress=False)
    model = ecgray.load(run)
    assert model.folder == (run / "best").resolve()
    assert model.classes == make_config().task.classes
    assert model.fs == 250 and not model.training and model.preprocessing["sd_mv"] > 0
    with torch.no_grad():
        assert model(torch.randn(2, len(model.leads), 512)).shape == (2, 5)
    with pytest.raises(EcgrayError, match=r"\(batch, 1, samples\)"):
        model(torch.randn(2, 3, 512))
    signal = torch.randn(2, 1, 512)
    with torch.no_grad():
        assert torch.equal(model(signal.double()), model(signal))
        assert model(torch.zeros(1, 1, 1, dtype=torch.int16)).shape == (1, 5)
    with pytest.raises(EcgrayError, match=r"got \(2, 1, 0\)"):
        model(torch.zeros(2, 1, 0))
    with pytest.raises(EcgrayError, match="seed 1"):
        ecgray.load(run, seed=1)


def test_future_prediction_gives_features(make_config: Callable[..., PretrainConfig], tmp_path: Path) -> None:
    model = ecgray.load(pretrain(make_config("future", steps=2), tmp_path / "run", show_progress=False))
    assert model.classes == ()
    with torch.no_grad():
        signal = torch.randn(2, 1, 300)
        assert model(signal).shape == (2, 64) and torch.equal(model.features(signal), model(signal))


def test_a_finetuning_run_loads_its_best_seed_or_the_one_asked_for(tmp_path: Path) -> None:
    for seed, score in enumerate((0.2, 0.7, 0.5, 0.9)):
        folder = tmp_path / "seeds" / f"seed-{seed:02d}"
        saved(folder, seed=seed)
        if seed < 3:  # the last one has not finished
            (folder / "complete").write_text(json.dumps({"val_macro_f1": score}))
    assert ecgray.load(tmp_path).folder.name == "seed-01"
    assert ecgray.load(tmp_path, seed=2).folder.name == "seed-02"
    with pytest.raises(EcgrayError, match="one of 0, 1, 2, got 3"):
        ecgray.load(tmp_path, seed=3)


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EcgrayError, match="not there"):
        ecgray.load(tmp_path / "nothing")
    with pytest.raises(EcgrayError, match="finished checkpoint"):
        ecgray.load(tmp_path)
    saved(tmp_path)
    with pytest.raises(EcgrayError, match=r"must be a folder, got .*, which is a file"):
        ecgray.load(tmp_path / "model.json")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(EcgrayError, match="whole safetensors"):
        ecgray.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(EcgrayError, match="whole safetensors"):
        ecgray.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    values = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(values | {"model": {**values["model"], "width": 16}}))
    with pytest.raises(EcgrayError, match="another one"):
        ecgray.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(values | {"clases": []}))
    with pytest.raises(EcgrayError, match="classes"):
        ecgray.load(tmp_path)
