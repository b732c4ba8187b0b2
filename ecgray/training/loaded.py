"""The trained network of a run, ready for signals in mV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import resample_poly
from torch import Tensor, nn
from torch.nn import functional as F

from ecgray.errors import EcgrayError
from ecgray.shards.resample import LARGEST_TERM, resampling_ratio
from ecgray.shards.storage import is_remote
from ecgray.training.checkpoint import COMPLETE, fault_of, newest_checkpoint
from ecgray.training.model_folder import DESCRIPTION, ModelDescription, read_json, read_model
from ecgray.training.published import fetched_run


class LoadedModel(nn.Module):
    """(batch, leads, samples) in mV at ``fs`` Hz to logits (batch, classes), with the preprocessing inside.

    A network that was trained on future prediction has no classes and gives its encoder's (batch, features) instead.
    A finetuned network takes at most ``description.length_samples``, and refuses longer signals: give it windows.

    ``classes`` and ``leads`` in order; ``description`` and ``folder`` say where the network comes from.
    """

    def __init__(self, network: nn.Module, description: ModelDescription, folder: Path) -> None:
        super().__init__()
        self.network: nn.Module = network if description.classes else network.encoder  # type: ignore[assignment]
        self.description, self.folder = description, folder
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.description.classes

    @property
    def leads(self) -> tuple[str, ...]:
        return self.description.leads

    @property
    def fs(self) -> float:
        return self.description.fs

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What happens to a signal before the network sees it."""
        names = ("fs", "leads", "mean_mv", "sd_mv", "length_samples", "padding")
        return {name: getattr(self.description, name) for name in names}

    def forward(self, signal_mv: Tensor | npt.NDArray[Any], fs: float | None = None) -> Tensor:
        """A tensor or numpy array of any floating point or integer type is taken.

        fs: the signal's rate in Hz where it is another than the network's; it is resampled as finetuning does, and no
        gradient leads back through that. Raises EcgrayError for another number of axes or leads, a value that is not
        finite, a rate that cannot be brought to the network's, and a signal that is longer than the network's input.
        """
        return self.network(self._input(signal_mv, fs))

    def features(self, signal_mv: Tensor | npt.NDArray[Any], fs: float | None = None) -> Tensor:
        """What the encoder makes of a signal as ``forward`` takes it: (batch, features), whatever it was trained on."""
        encoder = self.network.get_submodule("encoder" if self.classes else "")
        return encoder(self._input(signal_mv, fs))

    def _input(self, signal_mv: Tensor | npt.NDArray[Any], fs: float | None) -> Tensor:
        leads = len(self.leads)
        if isinstance(signal_mv, np.ndarray) and signal_mv.dtype.kind in "fiu":
            signal_mv = torch.from_numpy(signal_mv.astype(np.float64))
        if not isinstance(signal_mv, Tensor):
            got = f"an array of {signal_mv.dtype}" if isinstance(signal_mv, np.ndarray) else type(signal_mv).__name__
            raise EcgrayError(f"The signal must be a tensor or a numpy array of numbers, got {got}; make it one.")
        if signal_mv.ndim != 3 or signal_mv.shape[1] != leads or not signal_mv.shape[2]:
            raise EcgrayError(
                f"The signal must be of shape (batch, {leads}, samples) in mV, got {tuple(signal_mv.shape)}; "
                f"give the leads {', '.join(self.leads)} on axis 1."
            )
        finite = torch.isfinite(signal_mv)
        if not finite.all():
            raise EcgrayError(
                f"The signal must be finite, got {int((~finite).sum())} of {finite.numel()} values that are NaN or "
                "infinite; fill them or give windows without them."
            )
        weights = next(self.network.parameters())
        return prepare(signal_mv.to(weights.device, weights.dtype), self.description, fs)


def prepare(signal_mv: Tensor, description: ModelDescription, fs: float | None = None) -> Tensor:
    """(batch, leads, samples) mV to the network's input: standardised, resampled from ``fs`` Hz (None: the network's
    own rate), then brought to its length with zeros.

    Raises EcgrayError for a longer signal. Finetuning and ``ecgray evaluate`` cut those of records (papers.md W61,
    W62); whoever gives signals here decides for himself which part counts.
    """
    signal = (signal_mv - description.mean_mv) / description.sd_mv
    if fs is not None:
        signal = _resampled(signal, fs, description.fs)
    length = description.length_samples
    if length is None:
        return signal
    samples = signal.shape[-1]
    if samples > length:
        raise EcgrayError(
            f"The signal must have at most {length} samples ({length / description.fs:g} s at {description.fs:g} Hz), "
            f"got {samples} ({samples / description.fs:g} s); give windows of it, or use 'ecgray predict'."
        )
    return F.pad(signal, (0, length - samples) if description.padding == "after" else (length - samples, 0))


def _resampled(signal: Tensor, fs: float, wanted: float) -> Tensor:
    if not 1 <= fs <= 1e6 or max((ratio := resampling_ratio(fs, wanted)).as_integer_ratio()) > LARGEST_TERM:
        raise EcgrayError(
            f"The rate of a signal must be one from 1 Hz on that a bounded filter brings to {wanted:g} Hz, got {fs:g}; "
            "resample it first."
        )
    values = resample_poly(signal.float().numpy(force=True), *ratio.as_integer_ratio(), axis=-1)
    return torch.from_numpy(values).to(signal)


def load(run: Path | str, seed: int | None = None) -> LoadedModel:
    """The network of a run (its best checkpoint, or of a finetuning run one of its seeds), or of a model folder.

    ``seed`` None: of a finetuning run the seed with the best validation score. Raises EcgrayError when there is none.
    """
    folder = model_folder(run, seed)
    return LoadedModel(*read_model(folder), folder)


def model_folder(run: Path | str, seed: int | None = None) -> Path:
    """The model folder that ``load`` opens: the run's best checkpoint (else its newest), a seed, or ``run`` itself; of
    a URL, this machine's copy of it, in a copy of its run.

    Raises EcgrayError when there is none, or when the checkpoint's files are not those that were written.
    """
    run = fetched_run(run) if is_remote(run) else Path(run).expanduser()
    if (run / DESCRIPTION).is_file():
        return _whole(run)
    if (run / "seeds").is_dir():
        return _seed_folder(run, seed)
    if not run.is_dir():
        found = "which is a file" if run.exists() else "which is not there"
        raise EcgrayError(f"A run must be a folder, got {run}, {found}; give the --out of a run.")
    if seed is not None:
        raise EcgrayError(f"Only a finetuning run has seeds, got seed {seed} of {run}; leave it out.")
    best = run / "best"
    folder = _whole(best.resolve()) if best.is_dir() else newest_checkpoint(run / "checkpoints")
    if folder is None:
        raise EcgrayError(f"A run must hold a finished checkpoint, got none in {run}; train it first (--resume).")
    return folder


def _whole(folder: Path) -> Path:
    """``folder``, whose files are compared with their hashes where it is a checkpoint."""
    is_checkpoint = (folder / COMPLETE).is_file() and folder.parent.name == "checkpoints"
    fault = fault_of(folder) if is_checkpoint else None
    if fault is not None:
        raise EcgrayError(
            f"A checkpoint must be whole, got {folder}, where {fault}; give another one of the run by its folder."
        )
    return folder


def _validation_score(folder: Path) -> float:
    score = read_json(folder / "complete").get("val_macro_f1")
    return score if isinstance(score, (int, float)) else -1.0


def _seed_folder(run: Path, seed: int | None) -> Path:
    done = {int(f.name.split("-")[1]): f for f in (run / "seeds").glob("seed-*") if (f / "complete").is_file()}
    if not done:
        raise EcgrayError(f"A finetuning run must hold a finished seed, got none in {run}; go on with --resume.")
    if seed is None:
        return max((done[number] for number in sorted(done)), key=_validation_score)
    if seed not in done:
        raise EcgrayError(f"The seed must be one of {', '.join(map(str, sorted(done)))}, got {seed}; give another.")
    return done[seed]
