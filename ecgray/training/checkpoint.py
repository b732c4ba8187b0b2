"""Checkpoints: folders that are whole or do not count, holding all the state there is.

    step-000123/model.safetensors, model.json    a model folder, with the first rank's BatchNorm statistics
    step-000123/optimiser.safetensors            moments by parameter name
    step-000123/loop.json                        step, best validation, running sums
    step-000123/rank-0.safetensors ...           each rank's buffers and random state
    step-000123/complete                         sizes and SHA-256 of the others, written last

A folder is filled under another name, flushed and renamed before ``complete`` is written into it. Nothing is unpickled.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecgray.config import from_dict
from ecgray.errors import EcgrayError
from ecgray.shards.manifest import file_sha256, fsync_folder
from ecgray.training.distributed import Distributed
from ecgray.training.model_folder import load_tensors, read_json, save_tensors, write_json

COMPLETE = "complete"
_ADAM = ("step", "exp_avg", "exp_avg_sq")
log = logging.getLogger(__name__)


@dataclass
class LoopState:
    """Where the loop stands after ``step`` steps.

    ``best_step`` and ``best_accuracy``: the best validation so far; ``validation_due``: the one of this step was
    abandoned at a stop request; ``loss``, ``correct``, ``counted``: sums over the frames since the last log line.
    """

    step: int = 0
    best_step: int | None = None
    best_accuracy: float | None = None
    validation_due: bool = False
    loss: float = 0.0
    correct: float = 0.0
    counted: float = 0.0


def step_folder(root: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` steps lies."""
    return root / f"step-{step:06d}"


def write_checkpoint(
    root: Path,
    step: int,
    distributed: Distributed,
    *,
    shared: Callable[[Path], None],
    own: Callable[[Path], None],
) -> Path:
    """Write a checkpoint together: the first rank calls ``shared(folder)``, each rank ``own(folder)``.

    Raises EcgrayError when the disk refuses; the checkpoints before stay as they are.
    """
    target = step_folder(root, step)
    partial = target.with_name(f".{target.name}.partial")
    try:
        if distributed.first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        distributed.wait()
        own(partial)
        if distributed.first:
            shared(partial)
        distributed.wait()
        if distributed.first:
            complete_checkpoint(partial, target, {file.name: fingerprint(file) for file in sorted(partial.iterdir())})
        distributed.wait()
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        newest = newest_checkpoint(root)
        raise EcgrayError(
            f"The checkpoint of step {step} must be written to {root}, got: {error}; "
            f"the last good one is {newest or 'none'}. Free some space or mend the permissions, then --resume."
        ) from error
    return target


def complete_checkpoint(partial: Path, target: Path, listing: Mapping[str, Any]) -> None:
    """Give a filled folder its name, in place of a torn one or one whose validation was due, and then its marker, which
    names its files."""
    shutil.rmtree(target, ignore_errors=True)
    fsync_folder(partial)
    partial.rename(target)
    fsync_folder(target.parent)
    write_json(target / f"{COMPLETE}.partial", {"files": listing})
    (target / f"{COMPLETE}.partial").rename(target / COMPLETE)
    fsync_folder(target)


def newest_checkpoint(root: Path) -> Path | None:
    """The newest whole checkpoint under ``root``. A torn one (no marker, other sizes or hashes) is skipped with a
    warning when it carries the marker, silently when it never was finished."""
    for _, folder in reversed(_steps(root)):
        if not (folder / COMPLETE).is_file():
            continue
        fault = fault_of(folder)
        if fault is None:
            return folder
        log.warning("%s is not whole (%s); taking the checkpoint before.", folder, fault)
    return None


def fault_of(folder: Path, *, hashes: bool = True) -> str | None:
    """Why a checkpoint is not whole, None when it is. Without ``hashes`` its files are not read, only their sizes."""
    try:
        files = read_json(folder / COMPLETE)["files"]
        for name, expected in files.items():
            if Path(name).name != name:
                return f"its marker names {name}, which lies outside"
            if not (folder / name).is_file():
                return f"{name} is missing"
            if (folder / name).stat().st_size != expected["bytes"]:
                return f"{name} has another size"
            if hashes and fingerprint(folder / name) != expected:
                return f"{name} has another hash"
    except (EcgrayError, OSError, KeyError, TypeError, AttributeError) as error:
        return f"its marker does not read: {error}"
    return None


def unmark_newer(root: Path, step: int) -> None:
    """Let no checkpoint after ``step`` count: torn ones would, among the newest, push out those that come next."""
    for later, folder in _steps(root):
        if later > step:
            (folder / COMPLETE).unlink(missing_ok=True)


def prune_checkpoints(root: Path, keep: int, best_step: int | None) -> None:
    """Remove all whole checkpoints but the ``keep`` newest and the best, and what earlier processes left unfinished."""
    whole = [(step, folder) for step, folder in _steps(root) if (folder / COMPLETE).is_file()]
    for step, folder in whole[:-keep]:
        if step != best_step:
            (folder / COMPLETE).unlink()  # the marker first: a half-removed checkpoint never counts
            shutil.rmtree(folder)
    for _, folder in _steps(root):
        if not (folder / COMPLETE).is_file():
            shutil.rmtree(folder)
    for folder in root.glob(".step-*.partial*"):
        shutil.rmtree(folder)


def read_loop_state(folder: Path) -> LoopState:
    """The loop's state; raises EcgrayError when it does not read."""
    state = from_dict(LoopState, read_json(folder / "loop.json"), where=str(folder / "loop.json"))
    if state.step < 0 or (state.best_step or 0) < 0:
        raise EcgrayError(f"{folder / 'loop.json'} must count steps from 0, got {state.step}; remove that checkpoint.")
    return state


def write_loop_state(folder: Path, state: LoopState) -> None:
    write_json(folder / "loop.json", asdict(state))


def save_optimiser(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write the optimiser's tensors under ``<parameter name>/<what>``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    save_tensors(
        path,
        {f"{names[p]}/{what}": tensor for p, state in optimiser.state.items() for what, tensor in state.items()},
    )


def load_optimiser(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put back what ``save_optimiser`` wrote; raises EcgrayError when it is of another network."""
    restore_optimiser(path, load_tensors(path), network, optimiser)


def restore_optimiser(
    path: Path, tensors: Mapping[str, Tensor], network: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Put back Adam's ``tensors``, named ``<parameter>/<what>``. Raises EcgrayError for those of another network."""
    parameters = dict(network.named_parameters())
    index = {parameter: i for i, parameter in enumerate(p for group in optimiser.param_groups for p in group["params"])}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, what = key.rpartition("/")
        parameter = parameters.get(name)
        if (
            parameter is None
            or parameter not in index
            or what not in _ADAM
            or not (tensor.is_floating_point() if what == "step" else tensor.dtype == parameter.dtype)
            or tensor.shape != (torch.Size() if what == "step" else parameter.shape)
        ):
            raise EcgrayError(f"{path} must belong to this very network, got {key}; resume with the run's own config.")
        state.setdefault(index[parameter], {})[what] = tensor
    for moments in state.values():
        if len(moments) != len(_ADAM):
            raise EcgrayError(
                f"{path} must hold {', '.join(_ADAM)} of each parameter, got {', '.join(moments)} of one."
            )
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def save_rank(folder: Path, rank: int, network: nn.Module) -> None:
    """Write this rank's buffers (BatchNorm statistics differ by rank) and random state."""
    tensors = {f"buffer/{name}": buffer for name, buffer in network.named_buffers()}
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    save_tensors(folder / rank_file(rank), tensors)


def load_rank(folder: Path, rank: int, network: nn.Module) -> None:
    """Put back what ``save_rank`` wrote. A rank that was not there then keeps the first rank's buffers."""
    path = folder / rank_file(rank)
    if not path.is_file():
        return
    tensors = load_tensors(path)
    buffers: Mapping[str, Tensor] = dict(network.named_buffers())
    with torch.no_grad():
        for name, buffer in buffers.items():
            if f"buffer/{name}" not in tensors or tensors[f"buffer/{name}"].shape != buffer.shape:
                raise EcgrayError(
                    f"{path} must belong to this very network, lacks {name}; resume with the run's config."
                )
            buffer.copy_(tensors[f"buffer/{name}"])
    try:
        torch.set_rng_state(tensors["random/cpu"])
        if torch.cuda.is_available() and "random/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random/cuda"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise EcgrayError(
            f"{path} must hold a random state, got another one ({error}); resume from another."
        ) from error


def rank_file(rank: int) -> str:
    return f"rank-{rank}.safetensors"


def fingerprint(file: Path) -> dict[str, int | str]:
    return {"bytes": file.stat().st_size, "sha256": file_sha256(file)}


def _steps(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything named like a checkpoint, oldest first."""
    matches = ((re.fullmatch(r"step-(\d+)", folder.name), folder) for folder in root.glob("step-*"))
    return sorted((int(match[1]), folder) for match, folder in matches if match)
