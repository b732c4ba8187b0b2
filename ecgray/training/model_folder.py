"""A model folder: weights and everything needed to use them, without knowing how they were trained.

    model.safetensors    the network's parameters and buffers
    model.json           which network, its classes, leads, rate, standardisation, padding, where it comes from

A pretraining checkpoint and a finetuned seed are both model folders.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ecgray.config import from_dict, to_dict
from ecgray.errors import EcgrayError
from ecgray.models.base import Model
from ecgray.models.classifier import Classifier
from ecgray.models.future import FuturePredictor
from ecgray.tasks.base import Task
from ecgray.tasks.future import FuturePrediction

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
MAX_SAMPLES = 2**25
"""Of one input: a day and a half at 250 Hz."""


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What a network is and what it expects.

    ``fs`` in Hz; ``mean_mv`` and ``sd_mv`` standardise its input; ``frame_size`` (samples) is what it was pretrained
    on; ``length_samples`` and ``padding`` say to what length a recording is brought with zeros (after
    standardisation) and on which side, None where the network takes any length as it comes; ``task`` is the
    pretraining task, None for labels of records. The hashes name the config and the shard sets of its training.
    """

    model: Model
    classes: tuple[str, ...]
    leads: tuple[str, ...]
    fs: float
    mean_mv: float
    sd_mv: float
    frame_size: int | None = None
    length_samples: int | None = None
    padding: Literal["before", "after"] | None = None
    task: Task | None = None
    config_hash: str = ""
    manifest_hashes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rules = {
            "leads": len(self.leads) > 0,
            "fs": self.fs > 0,
            "sd_mv": self.sd_mv > 0,
            "frame_size": self.frame_size is None or 1 <= self.frame_size <= MAX_SAMPLES,
            "length_samples": self.length_samples is None or 1 <= self.length_samples <= MAX_SAMPLES,
        }
        for name, holds in rules.items():
            if not holds:
                raise EcgrayError(f"{name} of a model must be one that can be used, got {getattr(self, name)}.")


def build_network(model: Model, leads: int, classes: int, task: Task | None, frame_size: int | None) -> nn.Module:
    """The network that a task asks for, with fresh weights: a classifier, or a predictor of future frames."""
    encoder = model.encoder(leads)
    if isinstance(task, FuturePrediction):
        if frame_size is None:
            raise EcgrayError("A network that predicts future frames needs a frame size; give sampling.frame_size.")
        context = task.span(frame_size) // frame_size - 1
        return FuturePredictor(encoder, context, frame_size, logit_scale=task.logit_scale)
    return Classifier(encoder, classes)


def check_batch(make: Callable[[], nn.Module], batch: int, leads: int, samples: int) -> None:
    """Raises EcgrayError when the network that ``make`` gives refuses its settings, or cannot be trained on a batch as
    small as (batch, leads, samples). Nothing is computed, and no random number drawn."""
    with torch.device("meta"):
        network = make().train()
        try:
            network(torch.empty(batch, leads, samples))
        except ValueError as error:
            raise EcgrayError(
                "Batch normalisation must see more than one value per channel, got too few from batches of "
                f"{batch} x {samples} samples ({error}); take longer signals or larger batches."
            ) from error


def save_model(folder: Path, network: nn.Module, description: ModelDescription) -> None:
    """Write ``network`` and its description into ``folder`` (made where missing), flushed to the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, network.state_dict())
    values = to_dict(description)
    values["standardisation"] = {"mean_mv": values.pop("mean_mv"), "sd_mv": values.pop("sd_mv")}
    write_json(folder / DESCRIPTION, values)


def read_model(folder: Path) -> tuple[nn.Module, ModelDescription]:
    """The network in ``folder`` in eval mode on the CPU, and its description.

    Raises EcgrayError when a file is missing or torn, or when the weights are those of another network.
    """
    description = read_description(folder)
    leads, classes = len(description.leads), len(description.classes)
    state = load_tensors(folder / WEIGHTS)
    try:
        with torch.device("meta"):  # no memory for a network that the file does not hold
            outline = build_network(description.model, leads, classes, description.task, description.frame_size)
    except (RuntimeError, OverflowError, TypeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise EcgrayError(
            f"{folder / DESCRIPTION} must describe a network, got one beyond any size: {reason}"
        ) from error
    refuse_other_weights(outline, state, folder / WEIGHTS)
    network = build_network(description.model, leads, classes, description.task, description.frame_size)
    load_weights(network, state, folder / WEIGHTS)
    return network.eval(), description


def read_description(folder: Path) -> ModelDescription:
    """The description alone; raises EcgrayError when it is missing or does not read."""
    values = read_json(folder / DESCRIPTION)
    standardisation = values.pop("standardisation", None)
    if not isinstance(standardisation, dict):
        raise EcgrayError(f"{folder / DESCRIPTION} must hold a standardisation; take another checkpoint of the run.")
    return from_dict(ModelDescription, values | standardisation, where=str(folder / DESCRIPTION))


def load_weights(network: nn.Module, state: Mapping[str, torch.Tensor], source: Path) -> None:
    """Put ``state`` into ``network``; raises EcgrayError when a name or a shape differs, naming the first."""
    refuse_other_weights(network, state, source)
    network.load_state_dict(state)


def refuse_other_weights(network: nn.Module, state: Mapping[str, torch.Tensor], source: Path) -> None:
    """Raises EcgrayError when ``state`` is of another network, naming the first tensor that differs."""
    expected = network.state_dict()
    differing = sorted(expected.keys() ^ state.keys())
    differing += sorted(
        k
        for k in expected.keys() & state.keys()
        if (expected[k].shape, expected[k].dtype) != (state[k].shape, state[k].dtype)
    )
    if differing:
        first = differing[0]
        got, wanted = (
            f"{tuple(s[first].shape)} {s[first].dtype}" if first in s else "nothing" for s in (state, expected)
        )
        raise EcgrayError(
            f"{source} must hold the weights of this very network, got another one: {len(differing)} tensors differ, "
            f"first {first} (file {got}, network {wanted}); give the model config that the file was trained with."
        )


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, with notes ``metadata``, and flush them to the disk. Raises OSError."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, path, metadata)
    except SafetensorError as error:  # which is what a full disk gives
        raise OSError(f"{path}: {error}") from error
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file; raises EcgrayError when it is missing or not whole."""
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise EcgrayError(f"{path} must be a whole safetensors file ({reason}); take another checkpoint.") from error


def write_json(path: Path, values: Any) -> None:
    """Write JSON and flush it to the disk."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(values, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def json_lines(content: bytes) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines; what is none is left out, as a last line is that a kill has torn."""
    found: list[Any] = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [values for values in found if isinstance(values, dict)]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises EcgrayError when it is missing, torn or no object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EcgrayError(f"{path} must be a JSON file ({error}); give a folder that ecgray wrote.") from error
    if not isinstance(values, dict):
        raise EcgrayError(f"{path} must hold a JSON object, got {type(values).__name__}; give a folder ecgray wrote.")
    return values
