"""Who is recorded: heart, electrode position, habits of rhythm and the recorder, drawn once per synthetic patient.

Waves are asymmetric Gaussian kernels, the closed form of the dynamical model of McSharry, Clifford, Tarassenko and
Smith (A dynamical model for generating synthetic electrocardiogram signals, IEEE Trans. Biomed. Eng. 50, 2003):
a kernel is a row of amplitude (mV), centre (s, from the largest deflection of QRS), left and right width (s).
Amplitudes follow from the angle between the lead and the electrical axis, so that QRS, T and P agree as in people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

CONDITIONS: tuple[str, ...] = ("pac", "afib", "pvc", "flutter", "normal", "mixed", "afib", "flutter")
"""Heart conditions in the order in which an ambulatory archive's patients have them (by number, cyclic)."""

NORMAL, ABERRATED, FIRST_FOCUS = 0, 1, 2
FOCI = 3
SINUS_P, ECTOPIC_P = 0, 1


@dataclass(frozen=True, kw_only=True)
class Waveforms:
    """qrs (shapes, 6, 4) and t (shapes, 3, 4) by ventricular shape (NORMAL, ABERRATED, then the foci of PVCs),
    p (2, 2, 4) by atrial origin; rows of amplitude mV, centre s, left and right width s. t is for an RR of 0.85 s."""

    qrs: Array
    t: Array
    p: Array
    pr_s: float
    pr_ectopic_s: float


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations (mV) of each kind of noise outside noisy stretches, and how often motion disturbs."""

    baseline_mv: float
    muscle_mv: float
    powerline_mv: float
    powerline_hz: float
    motion_mv: float
    motions_per_minute: float
    noisy_fraction: float


@dataclass(frozen=True, kw_only=True)
class Patient:
    """Everything that stays the same from one recording of a patient to the next.

    rate_bpm is the sinus rate at rest; respiration, mayer and slow are shares of modulation of the rate; the
    _share fields say how much of the time the patient fibrillates or flutters; pac, pvc, dropped: chances per beat.
    """

    waveforms: Waveforms
    noise: Noise
    rate_bpm: float
    excursions_per_hour: float
    respiration_hz: float
    respiration: float
    mayer_hz: float
    mayer: float
    slow: float
    qrs_respiration: float
    pac: float
    pvc: float
    dropped: float
    grouped: float
    aberration: float
    coupling_pac: float
    coupling_pvc: float
    afib_share: float
    aflut_share: float
    afib_rate_bpm: float
    afib_spread: float
    f_wave_mv: float
    f_wave_hz: float
    flutter_mv: float
    flutter_hz: float
    flutter_block: int
    flutter_variable: bool


def draw_patient(rng: np.random.Generator, condition: str, *, handheld: bool = False) -> Patient:
    """A patient with a condition: one of CONDITIONS, or ``bradycardia``, ``tachycardia``, ``block``, ``bundle``.

    handheld: from hand to hand instead of a chest lead worn for days: smaller waves, a restless baseline, and more
    often upside down.
    """

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def log_between(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    pac, pvc = log_between(2e-4, 4e-3), log_between(2e-4, 4e-3)
    if condition in ("pac", "mixed"):
        pac = log_between(0.03, 0.16)
    if condition in ("pvc", "mixed"):
        pvc = log_between(0.03, 0.16)
    rates = {"bradycardia": (36.0, 49.0), "tachycardia": (112.0, 160.0), "normal": (56.0, 92.0)}
    persistent = rng.random() < 0.25
    breathing = log_between(0.015, 0.12)
    bundle = condition == "bundle" or rng.random() < 0.05
    waveforms = draw_waveforms(rng, bundle=bundle, slow_conduction=condition == "block", handheld=handheld)
    height_mv = float(np.ptp(waveforms.qrs[NORMAL, :, 0]))
    return Patient(
        waveforms=waveforms,
        noise=draw_noise(rng, restless=2.0 if handheld else 1.0),
        rate_bpm=between(*rates.get(condition, (52.0, 95.0))),
        excursions_per_hour=0.0 if condition in ("bradycardia", "tachycardia") else log_between(3.0, 10.0),
        respiration_hz=between(0.17, 0.36),
        respiration=breathing * (0.4 if condition == "tachycardia" else 1.0),
        mayer_hz=between(0.08, 0.12),
        mayer=breathing * between(0.4, 1.2),
        slow=between(0.015, 0.045),
        qrs_respiration=between(0.01, 0.10),
        pac=pac,
        pvc=pvc,
        dropped=between(0.05, 0.2) if condition == "block" and rng.random() < 0.5 else 0.0,
        grouped=between(0.0, 0.4),
        aberration=between(0.2, 0.7) if rng.random() < 0.6 else 0.08,
        coupling_pac=between(0.55, 0.78),
        coupling_pvc=between(0.54, 0.72),
        afib_share={"afib": 0.9 if persistent else between(0.35, 0.6), "mixed": 0.1}.get(condition, 0.0),
        aflut_share={"flutter": 0.85 if persistent else between(0.35, 0.6), "afib": 0.04}.get(condition, 0.0),
        afib_rate_bpm=between(58.0, 130.0),
        afib_spread=between(0.15, 0.32),
        f_wave_mv=min(log_between(0.012, 0.09), 0.12 * height_mv),
        f_wave_hz=between(4.5, 7.8),
        flutter_mv=min(log_between(0.06, 0.20), 0.25 * height_mv),
        flutter_hz=between(3.9, 5.5),
        flutter_block=int(rng.choice([2, 3, 4], p=[0.35, 0.2, 0.45])),
        flutter_variable=bool(rng.random() < 0.4),
    )


def draw_noise(rng: np.random.Generator, restless: float = 1.0) -> Noise:
    """A recorder and a skin, quiet or noisy, with or without hum; restless multiplies what motion does."""
    return Noise(
        baseline_mv=float(np.exp(rng.normal(np.log(0.035), 0.7))) * restless,
        muscle_mv=float(np.exp(rng.normal(np.log(0.012), 0.6))),
        powerline_mv=float(np.exp(rng.normal(np.log(0.008), 0.8))) if rng.random() < 0.4 else 0.0,
        powerline_hz=float(rng.choice([50.0, 60.0])),
        motion_mv=float(np.exp(rng.normal(np.log(0.25), 0.5))),
        motions_per_minute=float(np.exp(rng.normal(np.log(0.7), 0.8))) * restless**2,
        noisy_fraction=float(rng.beta(1.2, 18.0)),
    )


def draw_waveforms(
    rng: np.random.Generator, *, bundle: bool = False, slow_conduction: bool = False, handheld: bool = False
) -> Waveforms:
    """P, QRS and T of a patient in one lead.

    The mean QRS vector makes an angle with the lead; R grows with its cosine, S with the opposite; T and P point near
    it.
    """
    size = float(np.exp(rng.normal(np.log(1.0 if handheld else 1.5), 0.38)))
    angle = rng.normal(0.0, 0.6)
    towards = np.cos(angle)
    width = rng.uniform(0.95, 1.4) * (1.75 if bundle else 1.0)
    normal = _qrs(rng, size, towards, width, late=bundle or rng.random() < 0.12, broad=bundle)
    t_size = size * rng.uniform(0.12, 0.34)
    t_towards = np.cos(angle + rng.normal(0.0, 0.35)) * (-0.7 if bundle and rng.random() < 0.8 else 1.0)
    if rng.random() < 0.08:
        t_towards *= -0.5
    normal_t = _t(rng, t_size * t_towards, rng.uniform(0.27, 0.325), size * rng.normal(0.0, 0.012))
    turned = float(np.cos(angle + rng.normal(0.0, 0.5)))
    turned = float(np.copysign(max(abs(turned), 0.5), turned))
    aberrated = _qrs(rng, size * rng.uniform(0.8, 1.2), turned, width * rng.uniform(1.35, 1.7), late=True, broad=True)
    aberrated_t = _t(rng, -np.sign(aberrated[1, 0] + aberrated[2, 0]) * t_size * rng.uniform(0.5, 1.1), 0.31, 0.0)
    shapes, recoveries = [normal, aberrated], [normal_t, aberrated_t]
    for _ in range(FOCI):
        qrs, t = _pvc(rng, size, towards)
        shapes.append(qrs)
        recoveries.append(t)
    p_size = size**0.5 * rng.uniform(0.05, 0.16) * np.cos(0.6 * angle + rng.normal(0.0, 0.3))
    ectopic = p_size * rng.uniform(0.6, 1.3) * (-1.0 if rng.random() < 0.6 else 1.0)
    p = np.stack([_p(rng, p_size), _p(rng, ectopic)])
    sign = -1.0 if rng.random() < (0.2 if handheld else 0.06) else 1.0
    kernels = [np.stack(shapes), np.stack(recoveries), p]
    for kernel in kernels:
        kernel[..., 0] *= sign
    pr = rng.uniform(0.23, 0.33) if slow_conduction else rng.uniform(0.13, 0.19)
    return Waveforms(
        qrs=kernels[0], t=kernels[1], p=kernels[2], pr_s=float(pr), pr_ectopic_s=float(pr * rng.uniform(0.72, 1.1))
    )


def _qrs(rng: np.random.Generator, size: float, towards: float, width: float, *, late: bool, broad: bool) -> Array:
    """q, R, S, then a late second R, a notch and the slow end of depolarisation; centred on the largest deflection.

    late: whether the second R is there at all; broad: whether it is slurred, as behind a blocked bundle branch.
    """
    r = size * (0.12 + 0.95 * max(towards, 0.0))
    s = size * (0.08 * rng.uniform(0.2, 3.0) + 0.95 * max(-towards, 0.0))
    q = size * rng.uniform(0.0, 0.16) if towards > 0.2 else size * rng.uniform(0.0, 0.03)
    # A blocked left branch slurs the top of R; a blocked right one adds an R after the S.
    second = size * (rng.uniform(0.12, 0.45) if late else rng.uniform(-0.03, 0.03))
    if broad and rng.random() < 0.5:
        s *= 0.25
    rows = [
        (-q, -0.024, 0.0065, 0.0065),
        (r, 0.0, rng.uniform(0.0085, 0.0115), rng.uniform(0.0075, 0.0105)),
        (-s, rng.uniform(0.022, 0.030), 0.0085, rng.uniform(0.009, 0.014)),
        (second, rng.uniform(0.036, 0.050), 0.013 if broad else 0.009, 0.018 if broad else 0.012),
        (-0.2 * second * rng.random(), 0.012, 0.005, 0.005),
        (-0.4 * s * rng.random(), 0.045, 0.012, 0.016),
    ]
    kernels = np.array(rows)
    kernels[:, 1:] *= width
    return _centred(kernels)


def _pvc(rng: np.random.Generator, size: float, towards: float) -> tuple[Array, Array]:
    """A premature ventricular beat of one focus: 130 to 180 ms wide, tall, slurred, T large and opposite."""
    sign = 1.0 if rng.random() < (0.35 if towards > 0 else 0.65) else -1.0
    tall = size * rng.uniform(0.9, 1.6)
    wide = rng.uniform(0.8, 1.1)
    kernels = np.array(
        [
            (-sign * tall * rng.uniform(0.0, 0.25), -0.055, 0.014, 0.014),
            (sign * tall, 0.0, rng.uniform(0.022, 0.034), rng.uniform(0.022, 0.032)),
            (sign * tall * rng.uniform(0.0, 0.5), rng.uniform(0.035, 0.055), 0.018, 0.022),
            (-sign * tall * rng.uniform(0.0, 0.2), rng.uniform(0.080, 0.10), 0.024, 0.040),
            (sign * tall * rng.uniform(-0.2, 0.2), -0.022, 0.008, 0.008),
            (0.0, 0.06, 0.01, 0.01),
        ]
    )
    kernels[:, 1:] *= wide
    t = _t(rng, -sign * tall * rng.uniform(0.2, 0.42), rng.uniform(0.27, 0.33), 0.0)
    # ST leans into T without a flat part.
    t[0, 2:] *= 1.35
    t[1, 0] = t[0, 0] * rng.uniform(0.3, 0.6)
    t[2, 0] = t[0, 0] * rng.uniform(0.15, 0.4)
    return _centred(kernels), t


def _t(rng: np.random.Generator, height: float, centre: float, st: float) -> Array:
    """T (slow rise, quick fall) with a shoulder that may make it biphasic or flat, and the ST segment's level."""
    left, right = rng.uniform(0.045, 0.065), rng.uniform(0.028, 0.042)
    shoulder = height * rng.uniform(-0.25, 0.35)
    return np.array(
        [
            (height, centre, left, right),
            (shoulder, centre - rng.uniform(0.06, 0.09), 0.035, 0.035),
            (st, 0.12, 0.035, 0.08),
        ]
    )


def _p(rng: np.random.Generator, height: float) -> Array:
    """Right and left atrium: two overlapping bumps, the second sometimes apart or opposite."""
    second = height * (rng.uniform(0.4, 1.0) if rng.random() < 0.85 else rng.uniform(-0.8, -0.2))
    gap = rng.uniform(0.018, 0.042)
    return np.array(
        [
            (height, 0.0, rng.uniform(0.016, 0.022), 0.017),
            (second, gap, 0.017, rng.uniform(0.016, 0.023)),
        ]
    )


def _centred(kernels: Array) -> Array:
    """The same waves in time from their largest deflection, which is where annotators put the beat."""
    grid = np.arange(-0.15, 0.25, 0.0005)
    offset = grid[:, None] - kernels[:, 1]
    wave = kernels[:, 0] * np.exp(-0.5 * (offset / np.where(offset < 0, kernels[:, 2], kernels[:, 3])) ** 2)
    shifted = kernels.copy()
    shifted[:, 1] -= grid[np.abs(wave.sum(axis=1)).argmax()]
    return shifted
