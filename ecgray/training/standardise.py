"""From the stream's int16 to the network's input, on the device."""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ecgray.sampling.stream import Batch
from ecgray.training.config import ICENTIA11K_MV, DataConfig

# Batches are views that the stream may share between processes; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class Calibrated(Protocol):
    """What is asked of an archive: gain (ADC units per mV) and baseline (ADC units), each (records, leads)."""

    gain: npt.NDArray[np.float32]
    baseline: npt.NDArray[np.float32]
    mean_mv: float
    sd_mv: float


def standardisation_of(archive: Calibrated, data: DataConfig) -> tuple[float, float]:
    """(mean, sd) in mV that the config asks for."""
    return ICENTIA11K_MV if data.standardisation == "icentia11k" else (archive.mean_mv, archive.sd_mv)


class Standardise:
    """int16 ADC units to ((signal - baseline) / gain - mean) / sd: one multiply and one add."""

    def __init__(self, archive: Calibrated, mean_mv: float, sd_mv: float, device: torch.device) -> None:
        gain, baseline = archive.gain.astype(np.float64), archive.baseline.astype(np.float64)
        factor, shift = 1 / (gain * sd_mv), -(baseline / gain + mean_mv) / sd_mv
        self._calibration = np.stack([factor, shift], axis=1).astype(np.float32)
        self._device = device

    def __call__(self, batch: Batch) -> Tensor:
        """(n, leads, samples) float32 on the device from the batch's int16 (n, leads, samples)."""
        leads, slots = batch.signal.shape[1], batch.slot_record.shape[1]
        # (n, slots, 2, leads) -> twice (n, leads, slots, 1): each slot has the calibration of its own record.
        calibration = self._calibration[batch.slot_record].transpose(2, 0, 3, 1)[..., None]
        factor, shift = self._move(calibration).unbind()
        signal = self._move(batch.signal).float().reshape(len(batch), leads, slots, -1)
        return torch.addcmul(shift, signal, factor).reshape(len(batch), leads, -1)

    def target(self, batch: Batch) -> Tensor:
        """(n,) int64 on the device."""
        return self._move(batch.target)

    def _move(self, array: npt.NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor
