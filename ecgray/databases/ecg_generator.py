"""A single-lead ECG with its truth: patient and rhythm in, millivolts and annotations out.

    patient = draw_patient(rng, "afib")
    strip = generate(patient, rng, seconds=60.0, fs=250.0)

Everything comes from the generator of random numbers that is passed in. Some thousand times real time on one core:
each wave of all beats is drawn at once, one Gaussian kernel per wave and beat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from ecgray.databases.ecg_noise import NoisyStretch, add_noise, draw_stretches, front_end
from ecgray.databases.ecg_patient import Array, Patient
from ecgray.databases.ecg_rhythm import AFIB, AFLUT, GRID_HZ, Episode, Heartbeats, beat, breathe, draw_episodes
from ecgray.databases.record import RHYTHMS

NOISE = RHYTHMS.index("noise")


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A recording. signal_mv: float32 (samples,); beats: sample of the largest deflection of QRS, int64 (n,), strictly
    ascending; beat_classes: uint8 (n,) indices into BEATS (undefined in noisy stretches); beat_rhythms: uint8 (n,)
    indices into RHYTHMS (noise in noisy stretches)."""

    signal_mv: npt.NDArray[np.float32]
    beats: npt.NDArray[np.int64]
    beat_classes: npt.NDArray[np.uint8]
    beat_rhythms: npt.NDArray[np.uint8]


def generate(
    patient: Patient,
    rng: np.random.Generator,
    *,
    seconds: float,
    fs: float,
    episodes: tuple[Episode, ...] | None = None,
    stretches: tuple[NoisyStretch, ...] | None = None,
    band_hz: tuple[float, float] = (0.15, 60.0),
) -> Strip:
    """A recording of ``round(seconds * fs)`` samples.

    episodes (rhythms) and stretches (noise) are drawn by the patient's habits unless given; band_hz is the recorder's.
    """
    if episodes is None:
        episodes = draw_episodes(patient, rng, seconds)
    if stretches is None:
        stretches = draw_stretches(patient.noise, rng, seconds)
    samples = round(seconds * fs)
    respiration = breathe(patient, rng, seconds + 4.0)
    hearts = beat(patient, rng, episodes, respiration)
    signal = _draw(patient, rng, hearts, respiration, samples, fs)
    for episode in episodes:
        if episode.rhythm in (AFIB, AFLUT):
            _add_atrial_waves(signal, patient, rng, episode, fs)
    size_mv = float(np.abs(patient.waveforms.qrs[0, :, 0]).max())
    add_noise(signal, patient.noise, rng, fs, respiration, GRID_HZ, stretches, size_mv)
    signal = front_end(signal, fs, *band_hz)
    # The low-pass filter delays by the time that a second-order Butterworth takes in its band.
    delay = np.sqrt(2.0) / (2 * np.pi * min(band_hz[1], 0.45 * fs))
    return _annotate(signal, hearts, stretches, fs, delay)


def _annotate(
    signal: npt.NDArray[np.float32], hearts: Heartbeats, stretches: tuple[NoisyStretch, ...], fs: float, delay: float
) -> Strip:
    position = np.rint((hearts.time + delay) * fs).astype(np.int64)
    kind, rhythm = hearts.kind.copy(), hearts.rhythm.copy()
    inside = (position >= 0) & (position < len(signal))
    for stretch in stretches:
        first, last = np.searchsorted(hearts.time, (stretch.start, stretch.end))
        if stretch.heart == 0.0:
            # No beats are seen; the ones at the edges are uncertain, so that no zone of rhythm reaches across.
            inside[first:last] = False
            first, last = max(first - 1, 0), last + 1
        kind[first:last], rhythm[first:last] = 0, NOISE
    return Strip(
        signal_mv=signal,
        beats=position[inside],
        beat_classes=kind[inside].astype(np.uint8),
        beat_rhythms=rhythm[inside].astype(np.uint8),
    )


def _draw(
    patient: Patient, rng: np.random.Generator, hearts: Heartbeats, respiration: Array, samples: int, fs: float
) -> npt.NDArray[np.float32]:
    """P, QRS and T of all beats, without noise."""
    signal = np.zeros(samples)
    n = len(hearts.time)
    waves = patient.waveforms
    # Breathing turns the heart's axis; a slow walk stands for posture; every beat differs a little.
    breath = np.interp(hearts.time, np.arange(len(respiration)) / GRID_HZ, respiration)
    posture = lfilter([1.0], [1.0, -0.998], rng.normal(0.0, 0.004, n))
    gain = (1.0 + patient.qrs_respiration * breath + posture) * np.exp(rng.normal(0.0, 0.02, n))
    widths = np.exp(rng.normal(0.0, 0.015, n))
    qrs = waves.qrs[hearts.shape]
    shiver = np.exp(rng.normal(0.0, 0.04, (n, qrs.shape[1])))
    for w in range(qrs.shape[1]):
        amplitude, centre, left, right = qrs[:, w].T
        height = amplitude * gain * shiver[:, w]
        _kernels(signal, fs, hearts.time + centre * widths, height, left * widths, right * widths)
    # QT follows the rate with the lag of some dozen beats, and the last interval a little; Bazett's power is 0.5.
    if n:
        lagged = lfilter([0.04], [1.0, -0.96], hearts.rr, zi=[0.96 * float(np.median(hearts.rr[:30]))])[0]
        stretch = (np.clip(0.8 * lagged + 0.2 * hearts.rr, 0.3, 1.6) / 0.85) ** 0.38
        t = waves.t[hearts.shape]
        t_gain = gain * np.exp(rng.normal(0.0, 0.05, n) + lfilter([1.0], [1.0, -0.99], rng.normal(0.0, 0.01, n)))
        for w in range(t.shape[1]):
            amplitude, centre, left, right = t[:, w].T
            _kernels(signal, fs, hearts.time + centre * stretch, amplitude * t_gain, left * stretch, right * stretch)
    p = waves.p[hearts.atrial_origin]
    p_gain = np.exp(rng.normal(0.0, 0.08, len(p)))
    for w in range(p.shape[1]):
        amplitude, centre, left, right = p[:, w].T
        # P's centre is set back by half its length, since PR counts from its onset.
        _kernels(signal, fs, hearts.atrial_time + 0.02 + centre, amplitude * p_gain, left, right)
    return signal.astype(np.float32)


def _kernels(signal: Array, fs: float, time: Array, amplitude: Array, left: Array, right: Array) -> None:
    """Add one asymmetric Gaussian per beat, in place; times beyond the ends are cut."""
    if not len(time) or not np.any(amplitude):
        return
    half = int(np.ceil(3.8 * max(left.max(), right.max()) * fs))
    middle = np.rint(time * fs).astype(np.int64)
    keep = (middle > -half) & (middle < len(signal) + half)
    middle, time, amplitude, left, right = middle[keep], time[keep], amplitude[keep], left[keep], right[keep]
    place = middle[:, None] + np.arange(-half, half + 1)
    offset = place / fs - time[:, None]
    offset /= np.where(offset < 0, left[:, None], right[:, None])
    wave = amplitude[:, None] * np.exp(-0.5 * offset * offset)
    valid = (place >= 0) & (place < len(signal))
    signal += np.bincount(place[valid], wave[valid], minlength=len(signal))


def _add_atrial_waves(
    signal: npt.NDArray[np.float32], patient: Patient, rng: np.random.Generator, episode: Episode, fs: float
) -> None:
    """f waves of fibrillation or the saw of flutter, in place.

    Both are a fundamental with harmonics whose share makes the saw (Stridh and Soernmo, IEEE Trans. Biomed. Eng. 48,
    2001); in fibrillation frequency and size wander, in flutter neither does.
    """
    part = signal[max(0, int(episode.start * fs)) : max(0, int(episode.end * fs))]
    n = len(part)
    if n < 8:
        return
    time = np.arange(n) / fs
    fade = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.3)
    grid = int(n / fs * 10) + 2
    if episode.rhythm == AFLUT:
        hz = np.full(grid, patient.flutter_hz)
        phase = 2 * np.pi * patient.flutter_hz * (time + max(0.0, episode.start)) - 1.9
        harmonics, size = [1.0, 0.5, 0.28, 0.14], np.full(n, patient.flutter_mv)
    else:
        hz = patient.f_wave_hz * (1.0 + lfilter([1.0], [1.0, -0.85], rng.normal(0.0, 0.07, grid)))
        phase = 2 * np.pi * np.cumsum(np.interp(time * 10, np.arange(grid), hz)) / fs
        level = np.exp(lfilter([1.0], [1.0, -0.93], rng.normal(0.0, 0.16, grid)))
        size = patient.f_wave_mv * np.interp(time * 10, np.arange(grid), level)
        harmonics = [1.0, 0.4, 0.15]
    wave = np.zeros(n)
    for order, share in enumerate(harmonics, start=1):
        wave -= share * np.sin(order * phase)
    part += (fade * size * wave).astype(np.float32)
