"""What a recorder adds to the heart: wandering baseline, muscle, moving electrodes, hum, noisy stretches, filters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, sosfilt

from ecgray.databases.ecg_patient import Noise

Signal = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class NoisyStretch:
    """Seconds in which nobody can tell the beats; ``heart`` is what is left of the ECG (0: electrode off)."""

    start: float
    end: float
    heart: float
    strength: float


def draw_stretches(noise: Noise, rng: np.random.Generator, seconds: float) -> tuple[NoisyStretch, ...]:
    """Noisy stretches of 3 to 60 s, together about ``noisy_fraction`` of the recording."""
    expected = seconds * noise.noisy_fraction / 13.0
    stretches: list[NoisyStretch] = []
    for start in np.sort(rng.uniform(0.0, seconds, rng.poisson(expected))):
        if stretches and start < stretches[-1].end + 4.0:
            continue
        end = min(seconds, start + float(np.exp(rng.uniform(np.log(3.0), np.log(40.0)))))
        kind = rng.random()
        # Light noise, in which the beats remain visible; noise that drowns them; an electrode that is off.
        heart = 1.0 if kind < 0.35 else (float(rng.uniform(0.2, 1.0)) if kind < 0.8 else 0.0)
        strength = float(rng.uniform(0.12, 0.35) if kind < 0.35 else rng.uniform(0.4, 1.2))
        stretches.append(NoisyStretch(start=float(start), end=end, heart=heart, strength=strength))
    return tuple(stretches)


def add_noise(
    signal: Signal,
    noise: Noise,
    rng: np.random.Generator,
    fs: float,
    respiration: npt.NDArray[np.float64],
    respiration_hz_grid: float,
    stretches: tuple[NoisyStretch, ...],
    size_mv: float,
) -> None:
    """Add all of a patient's noise to ``signal`` (samples,) in mV, in place; ``size_mv`` scales the noisy stretches."""
    n = len(signal)
    seconds = n / fs
    for stretch in stretches:
        _noisy_stretch(signal, stretch, rng, fs, size_mv)
    signal += _slow(rng, n, fs, respiration, respiration_hz_grid, noise.baseline_mv)
    signal += _muscle(rng, n, fs, noise.muscle_mv)
    if noise.powerline_mv > 0:
        level = _resample(np.abs(1.0 + rng.normal(0.0, 0.3, int(seconds / 5) + 2)) * noise.powerline_mv, n)
        hum = np.float32(2 * np.pi * noise.powerline_hz / fs) * np.arange(n, dtype=np.float32)
        signal += level * np.sin(hum + np.float32(rng.uniform(0, 6.28)))
    for at in rng.uniform(0.0, seconds, rng.poisson(noise.motions_per_minute * seconds / 60.0)):
        _motion(signal, rng, fs, float(at), noise.motion_mv)


def front_end(signal: Signal, fs: float, low_hz: float, high_hz: float) -> Signal:
    """The recorder's analogue band: first-order high-pass, second-order low-pass; group delay below 10 ms."""
    high_pass = butter(1, low_hz, "highpass", fs=fs, output="sos").astype(np.float32)
    low_pass = butter(2, min(high_hz, 0.45 * fs), "lowpass", fs=fs, output="sos").astype(np.float32)
    # The filter starts settled on the level of the first second.
    centred = signal - np.float32(np.median(signal[: int(fs)]))
    return np.asarray(sosfilt(np.concatenate([high_pass, low_pass]), centred), np.float32)


def _resample(values: npt.NDArray[np.float64], n: int) -> Signal:
    """Values at equal distances, drawn out linearly over n samples."""
    return np.interp(np.linspace(0, len(values) - 1, n), np.arange(len(values)), values).astype(np.float32)


def _slow(
    rng: np.random.Generator, n: int, fs: float, respiration: npt.NDArray[np.float64], grid_hz: float, sd_mv: float
) -> Signal:
    """Breathing and a random walk held near zero, on a grid of ``grid_hz``."""
    grid = len(respiration)
    walk = sosfilt(butter(2, [0.03, 0.5], "bandpass", fs=grid_hz, output="sos"), rng.normal(0.0, 1.0, grid + 40))[40:]
    wander = rng.uniform(0.2, 0.8) * respiration + walk / max(float(walk.std()), 1e-9)
    return np.interp(np.arange(n) / fs, np.arange(grid) / grid_hz, sd_mv * wander).astype(np.float32)


def _muscle(rng: np.random.Generator, n: int, fs: float, sd_mv: float) -> Signal:
    """White noise with the slow part taken out, louder in bursts of some seconds."""
    level = np.exp(rng.normal(0.0, 0.45, int(n / fs / 2) + 2))
    bursts = rng.random(len(level)) < 0.02
    level[bursts] *= rng.uniform(3.0, 8.0, int(bursts.sum()))
    white = rng.standard_normal(n + 1, dtype=np.float32)
    return _resample(level * sd_mv, n) * (white[1:] - np.float32(0.6) * white[:-1])


def _motion(signal: Signal, rng: np.random.Generator, fs: float, at: float, size_mv: float) -> None:
    """A moving electrode: a step that dies away, or a bump or two as wide as a wave of the heart, in place."""
    first = int(at * fs)
    height = size_mv * float(rng.normal(0.0, 1.0))
    if rng.random() < 0.4:
        part = signal[first : first + int(3 * fs)]
        time = np.arange(len(part), dtype=np.float32) / np.float32(fs)
        rise, fall = np.float32(0.012), np.float32(rng.uniform(0.15, 0.8))
        part += np.float32(height) * np.exp(-time / fall) * (1 - np.exp(-time / rise))
        return
    part = signal[first : first + int(1.6 * fs)]
    time = np.arange(len(part), dtype=np.float32) / np.float32(fs)
    for _ in range(int(rng.integers(1, 4))):
        centre, width = rng.uniform(0.3, 1.2), rng.uniform(0.02, 0.12)
        part += np.float32(height * rng.uniform(-1, 1)) * np.exp(-(((time - centre) / width) ** 2)).astype(np.float32)


def _noisy_stretch(signal: Signal, stretch: NoisyStretch, rng: np.random.Generator, fs: float, size_mv: float) -> None:
    """Fade the heart and add broadband, slow and spiky noise, in place."""
    part = signal[int(stretch.start * fs) : int(stretch.end * fs)]
    n = len(part)
    if n < 8:
        return
    seconds = n / fs
    # Flanks of a quarter of a second keep the edges from looking like beats.
    flank = np.minimum(1.0, np.minimum(np.arange(n), np.arange(n)[::-1]) / (0.25 * fs)).astype(np.float32)
    size = np.float32(stretch.strength * min(size_mv, 1.3))
    white = rng.standard_normal(n, dtype=np.float32)
    band = rng.uniform(0.5, 3.0), float(np.exp(rng.uniform(np.log(4.5), np.log(45.0))))
    rough = sosfilt(butter(2, band, "bandpass", fs=fs, output="sos"), white).astype(np.float32)
    level = _resample(np.exp(rng.normal(0.0, 0.5, int(seconds * 2) + 3)), n)
    added = level * rough * (size * np.float32(0.4) / max(float(rough.std()), 1e-9))
    added += white * (size * np.float32(rng.uniform(0.01, 0.12)))
    slow = np.cumsum(rng.normal(0.0, 1.0, int(seconds * 3) + 4))
    slow -= np.linspace(slow[0], slow[-1], len(slow))
    added += _resample(slow, n) * (size * np.float32(rng.uniform(0.05, 0.4)))
    for at in rng.uniform(0.0, seconds, rng.poisson(seconds * rng.uniform(0.1, 1.0))):
        _motion(added, rng, fs, float(at), float(size))
    part *= 1 - flank * np.float32(1 - stretch.heart)
    part += flank * added
