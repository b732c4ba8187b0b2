"""All state of a seed in training, in one file that is whole or absent. Nothing is unpickled."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ecgray.errors import EcgrayError
from ecgray.shards.manifest import fsync_folder
from ecgray.training.checkpoint import restore_optimiser
from ecgray.training.model_folder import load_tensors, load_weights, refuse_other_weights, save_tensors


@dataclass
class History:
    """Epochs so far, the best of them by validation macro F1, and the last that improved the monitored quantity."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    monitor_epoch: int = 0
    monitor_best: float = math.inf
    epochs: list[dict[str, Any]] = field(default_factory=list)


def save_state(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, history: History, best: Mapping[str, Tensor]
) -> None:
    """Write weights, moments, history and the best epoch's weights (``best`` empty: they are the present ones)."""
    tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for name, parameter in network.named_parameters():
        tensors |= {f"optimiser/{name}/{what}": tensor for what, tensor in optimiser.state.get(parameter, {}).items()}
    partial = path.with_name(f"{path.name}.partial")
    try:
        save_tensors(partial, tensors, {"history": json.dumps(asdict(history))})
    except OSError:
        partial.unlink(missing_ok=True)  # a full disk needs the room
        raise
    partial.rename(path)
    fsync_folder(path.parent)


def _history(values: Any) -> History:
    history = History(**values)
    counts = (history.epoch, history.best_epoch, history.monitor_epoch)
    numbers = (history.best_score, history.monitor_best)
    rows = isinstance(history.epochs, list) and all(isinstance(row, dict) for row in history.epochs)
    if not (
        all(type(count) is int and count >= 0 for count in counts)
        and all(type(number) in (int, float) for number in numbers)
        and rows
    ):
        raise TypeError("its history has values of other types")
    return history


def load_state(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[History, dict[str, Tensor]]:
    """Put back weights and moments; returns the history and the best epoch's weights.

    Raises EcgrayError when the file is not whole or is of another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            history = _history(json.loads(file.metadata()["history"]))
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise EcgrayError(
            f"{path} must be a whole state of this version ({reason}); delete it to start over."
        ) from error
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "optimiser": {}}
    for key, tensor in load_tensors(path).items():
        part, _, name = key.partition("/")
        if part not in parts:
            raise EcgrayError(f"{path} must hold parts {', '.join(parts)}, got {key}; delete it to start over.")
        parts[part][name] = tensor
    load_weights(network, parts["network"], path)
    restore_optimiser(path, parts["optimiser"], network, optimiser)
    device = next(network.parameters()).device
    best = parts["best"] or parts["network"]
    refuse_other_weights(network, best, path)
    return history, {name: tensor.to(device) for name, tensor in best.items()}
