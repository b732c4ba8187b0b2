"""When a synthetic heart beats: sinus rhythm with ectopy, atrial fibrillation, atrial flutter, and their episodes.

Sinus rhythm is an integral pulse frequency modulator driven by a rate with respiratory and Mayer peaks, a slow drift
and excursions to low and high rates; fibrillation draws each interval beyond the refractory time of the AV node;
flutter conducts every second, third or fourth wave of its circuit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from ecgray.databases.ecg_patient import ABERRATED, ECTOPIC_P, FIRST_FOCUS, FOCI, NORMAL, SINUS_P, Patient
from ecgray.databases.record import BEATS, RHYTHMS

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

SINUS, AFIB, AFLUT = RHYTHMS.index("normal"), RHYTHMS.index("afib"), RHYTHMS.index("aflut")
BEAT, PAC, WIDE_PAC, PVC = (BEATS.index(name) for name in ("normal", "pac", "aberrated", "pvc"))
GRID_HZ = 4.0


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A stretch of one rhythm, in seconds of the recording."""

    start: float
    end: float
    rhythm: int


@dataclass(frozen=True, kw_only=True)
class Heartbeats:
    """Ventricular beats (n,) and atrial beats (m,), seconds of the recording, ascending.

    kind: index into BEATS; shape: row of Waveforms.qrs; rr: interval before the beat; rhythm: index into RHYTHMS;
    atrial_origin: SINUS_P or ECTOPIC_P.
    """

    time: Array
    kind: Codes
    shape: Codes
    rr: Array
    rhythm: Codes
    atrial_time: Array
    atrial_origin: Codes


def draw_episodes(patient: Patient, rng: np.random.Generator, seconds: float) -> tuple[Episode, ...]:
    """Episodes that cover the recording; each rhythm has its share of the time, lengths vary over a factor of 30."""
    shares = np.array([1.0 - patient.afib_share - patient.aflut_share, patient.afib_share, patient.aflut_share])
    rhythms = (SINUS, AFIB, AFLUT)
    episodes: list[Episode] = []
    start, current = 0.0, int(rng.choice(3, p=shares))
    while start < seconds:
        # The mean stay is in proportion to the rhythm's share, so that alternating stays keep the shares.
        length = float(np.exp(rng.uniform(np.log(12.0), np.log(360.0)))) * (0.25 + 1.5 * shares[current])
        end = seconds if shares[current] > 0.97 or start + length > seconds - 6.0 else start + length
        episodes.append(Episode(start=start, end=end, rhythm=rhythms[current]))
        others = shares.copy()
        others[current] = 0.0
        start, current = end, current if others.sum() == 0 else int(rng.choice(3, p=others / others.sum()))
    return tuple(episodes)


def breathe(patient: Patient, rng: np.random.Generator, seconds: float) -> Array:
    """Respiration at GRID_HZ from 0 to ``seconds``, between -1 and 1, its frequency wandering by some per cent."""
    return _oscillate(patient.respiration_hz, rng, seconds)


def beat(patient: Patient, rng: np.random.Generator, episodes: tuple[Episode, ...], respiration: Array) -> Heartbeats:
    """All beats of a recording, from shortly before its start to shortly after its end."""
    seconds = episodes[-1].end
    rate = _sinus_rate(patient, rng, seconds, respiration)
    last = -float(rng.uniform(0.3, 1.0))
    parts: list[Heartbeats] = []
    for episode in episodes:
        final = episode is episodes[-1]
        stop = episode.end + (2.0 if final else 0.0)
        make = {SINUS: _sinus, AFIB: _fibrillate, AFLUT: _flutter}[episode.rhythm]
        part = _until(make(patient, rng, last, stop, rate), stop)
        if len(part.time):
            last = float(part.time[-1])
        parts.append(part)
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Heartbeats.__dataclass_fields__}
    return Heartbeats(**joined)


def _foci(rng: np.random.Generator, n: int) -> Codes:
    """Shapes for n PVCs, most of them from the first focus."""
    return np.asarray(FIRST_FOCUS + np.minimum(rng.geometric(0.85, n) - 1, FOCI - 1))


def _until(part: Heartbeats, stop: float) -> Heartbeats:
    keep, atrial = part.time < stop, part.atrial_time < stop
    return Heartbeats(
        time=part.time[keep],
        kind=part.kind[keep],
        shape=part.shape[keep],
        rr=part.rr[keep],
        rhythm=part.rhythm[keep],
        atrial_time=part.atrial_time[atrial],
        atrial_origin=part.atrial_origin[atrial],
    )


def _oscillate(hz: float, rng: np.random.Generator, seconds: float) -> Array:
    n = int(seconds * GRID_HZ) + 1
    wander = lfilter([1.0], [1.0, -0.97], rng.normal(0.0, 0.03, n))
    phase = 2 * np.pi * np.cumsum(hz * (1.0 + wander)) / GRID_HZ + rng.uniform(0, 2 * np.pi)
    depth = 1.0 + lfilter([1.0], [1.0, -0.95], rng.normal(0.0, 0.06, n))
    return np.asarray(np.clip(depth, 0.2, 1.8) * np.sin(phase))


def _sinus_rate(patient: Patient, rng: np.random.Generator, seconds: float, respiration: Array) -> Array:
    """Sinus rate in beats/s at GRID_HZ."""
    n = len(respiration)
    decay = np.exp(-1.0 / (GRID_HZ * np.array([40.0, 600.0])))
    level = np.zeros(n)
    for a in decay:
        shocks = rng.normal(0.0, patient.slow * np.sqrt(1 - a * a), n)
        shocks[0] = rng.normal(0.0, patient.slow)
        level += lfilter([1.0], [1.0, -a], shocks)
    count = rng.poisson(patient.excursions_per_hour * seconds / 3600.0)
    steps = np.zeros(n + 1)
    for _ in range(count):
        start = int(rng.integers(0, n))
        stop = min(n, start + int(GRID_HZ * np.exp(rng.uniform(np.log(25.0), np.log(400.0)))))
        target = rng.uniform(40.0, 55.0) if rng.random() < 0.5 else rng.uniform(104.0, 150.0)
        steps[start] += np.log(target / patient.rate_bpm)
        steps[stop] -= np.log(target / patient.rate_bpm)
    ramp = np.exp(-1.0 / (GRID_HZ * 8.0))
    level += lfilter([1 - ramp], [1.0, -ramp], np.cumsum(steps[:-1]))
    # Vagal modulation fades as the rate rises.
    vagal = np.exp(-1.2 * np.clip(level, -0.3, 1.0))
    mayer = _oscillate(patient.mayer_hz, rng, (n - 1) / GRID_HZ)[:n]
    modulation = patient.respiration * respiration + patient.mayer * mayer
    rate = patient.rate_bpm * np.exp(level) * (1.0 + vagal * modulation)
    return np.asarray(np.clip(rate, 34.0, 185.0) / 60.0)


def _intervals(rate: Array, start: float, stop: float) -> Array:
    """RR intervals of the modulator from ``start`` on, some more than reach ``stop``."""
    first = max(int(start * GRID_HZ), 0)
    wanted = rate[first : max(int(np.ceil((stop + 2.0) * GRID_HZ)), first + 1)]
    if not len(wanted):
        wanted = rate[-1:]
    # Ectopic beats shorten the sequence; mirrored time fills up.
    extended = np.concatenate([wanted, wanted[::-1], np.full(int(12 * GRID_HZ), wanted[0])])
    phase = np.concatenate([[0.0], np.cumsum(extended) / GRID_HZ])
    crossings = np.interp(np.arange(int(phase[-1]) + 1), phase, np.arange(len(phase)) / GRID_HZ)
    return np.diff(crossings)


def _sinus(patient: Patient, rng: np.random.Generator, last: float, stop: float, rate: Array) -> Heartbeats:
    rr = _intervals(rate, last, stop)
    rr *= 1.0 + rng.normal(0.0, 0.004, len(rr))
    n = len(rr)
    premature, ventricular = _ectopy(patient, rng, n)
    starts = premature & ~np.r_[False, premature[:-1]]
    # Length of each run, the index of its start, and the place in it, for every beat of a run.
    index = np.arange(n)
    start = np.maximum.accumulate(np.where(starts, index, -1))
    place = np.where(premature, index - start + 1, 0)
    after = np.r_[False, premature[:-1]] & ~premature
    base = rr[np.maximum(start, 0)]
    centre = np.where(ventricular, patient.coupling_pvc, patient.coupling_pac)
    drawn = (centre + rng.normal(0.0, 0.02, n).clip(-0.05, 0.05))[np.maximum(start, 0)]
    # No beat comes within 0.32 s of another, at any rate.
    coupling = np.maximum(drawn.clip(0.52, 0.85), np.minimum(0.32 / base, 0.95))
    was_ventricular = np.r_[False, ventricular[:-1]]
    length = np.r_[0, place[:-1]]
    # After a PVC the sinus node goes on undisturbed: the next beat comes at a whole number of sinus intervals,
    # two for a single PVC (full compensatory pause). A PAC resets the node: one interval and a little more.
    whole = np.ceil(coupling * length + np.maximum(0.5, 0.32 / base))
    pause = np.where(was_ventricular, (whole - coupling * length) * base, rr * (1.0 + rng.uniform(0.0, 0.14, n)))
    intervals = np.where(premature, coupling * base, np.where(after, pause, rr))
    dropped = (rng.random(n) < patient.dropped) & ~premature & ~after
    intervals = np.where(dropped, 2.0 * intervals, intervals)
    time = last + np.cumsum(intervals)

    atrial = premature & ~ventricular
    wide = atrial & (rng.random(n) < patient.aberration * np.where(place > 1, 0.5, 1.0))
    kind = np.select([ventricular, wide, atrial], [PVC, WIDE_PAC, PAC], BEAT)
    # A run comes from one focus.
    focus = _foci(rng, n)[np.maximum(start, 0)]
    shape = np.select([ventricular, wide], [focus, np.full(n, ABERRATED)], NORMAL)
    pr, pr_ectopic = patient.waveforms.pr_s, patient.waveforms.pr_ectopic_s
    squeeze = np.sqrt(np.clip(intervals, 0.35, 1.2) / 0.85) ** 0.5
    p_time = time - np.where(atrial, pr_ectopic, pr) * squeeze
    conducted = ~ventricular
    # Sinus P waves that meet a ventricle in its refractory time: in the QRS-T of a PVC, or dropped.
    hidden = np.flatnonzero(starts & ventricular)
    lost = np.flatnonzero(dropped)
    p_times = np.concatenate(
        [
            p_time[conducted],
            time[hidden] + (1.0 - coupling[hidden]) * base[hidden] - pr,
            time[lost] - 0.5 * intervals[lost] - pr,
        ]
    )
    origins = np.concatenate(
        [np.where(atrial, ECTOPIC_P, SINUS_P)[conducted], np.full(len(hidden) + len(lost), SINUS_P)]
    )
    order = np.argsort(p_times, kind="stable")
    return Heartbeats(
        time=time,
        kind=kind,
        shape=shape,
        rr=intervals,
        rhythm=np.full(n, SINUS),
        atrial_time=p_times[order],
        atrial_origin=origins[order],
    )


def _ectopy(patient: Patient, rng: np.random.Generator, n: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which of n beats are premature, and which of those ventricular: single, in runs, or every 2nd to 4th."""
    index = np.arange(n)
    marks = []
    for chance in (patient.pac, patient.pvc):
        # Ectopy comes and goes over minutes.
        activity = np.exp(lfilter([0.1], [1.0, -0.98], rng.normal(0.0, 1.0, n)) * 1.5)
        mark = rng.random(n) < chance * activity
        if chance > 0.01:
            for _ in range(rng.poisson(patient.grouped * n / 150.0)):
                at, period = int(rng.integers(0, n)), int(rng.integers(2, 5))
                mark |= (index >= at) & (index < at + int(rng.integers(8, 40))) & ((index - at) % period == 0)
        for origin in np.flatnonzero(mark & (rng.random(n) < 0.2 * patient.grouped)):
            mark[origin : origin + int(rng.integers(2, 7))] = True
        marks.append(mark)
    atrial, ventricular = marks
    atrial &= ~ventricular
    # A run keeps the origin of its first beat.
    atrial &= ~np.r_[False, ventricular[:-1]]
    ventricular &= ~np.r_[False, atrial[:-1]]
    premature = atrial | ventricular
    premature[:1] = False
    return premature, ventricular & premature


def _fibrillate(patient: Patient, rng: np.random.Generator, last: float, stop: float, rate: Array) -> Heartbeats:
    mean = 60.0 / patient.afib_rate_bpm
    n = int((stop - last) / mean * 1.5) + 30
    # The refractory part and what comes after it, in shares of the mean interval; the mean wanders over minutes.
    refractory = 0.52
    order = ((1.0 - refractory) / patient.afib_spread) ** 2
    wander = np.exp(lfilter([1.0], [1.0, -0.98], rng.normal(0.0, 0.02, n)))
    rr = np.maximum(mean * wander * (refractory + (1 - refractory) * rng.gamma(order, 1.0 / order, n)), 0.28)
    ventricular = rng.random(n) < min(patient.pvc, 0.05)
    rr[ventricular] = np.minimum(rr[ventricular], rng.uniform(0.38, 0.5, int(ventricular.sum())))
    # Ashman: a short interval after a long one finds a bundle branch still refractory.
    ashman = (np.r_[mean, rr[:-1]] > 1.15 * rr.mean()) & (rr < 0.75 * rr.mean()) & ~ventricular
    wide = ashman & (rng.random(n) < patient.aberration)
    focus = _foci(rng, n)
    return Heartbeats(
        time=last + np.cumsum(rr),
        kind=np.select([ventricular, wide], [PVC, WIDE_PAC], BEAT),
        shape=np.select([ventricular, wide], [focus, np.full(n, ABERRATED)], NORMAL),
        rr=rr,
        rhythm=np.full(n, AFIB),
        atrial_time=np.empty(0),
        atrial_origin=np.empty(0, np.int64),
    )


def _flutter(patient: Patient, rng: np.random.Generator, last: float, stop: float, rate: Array) -> Heartbeats:
    cycle = 1.0 / patient.flutter_hz
    n = int((stop - last) / (2 * cycle)) + 10
    block = np.full(n, patient.flutter_block)
    if patient.flutter_variable:
        # The ratio is kept for some beats, then another one is drawn.
        fresh = rng.random(n) < 0.22
        draws = rng.choice([2, 3, 4, 5], size=n, p=[0.35, 0.2, 0.37, 0.08])
        block = draws[np.maximum.accumulate(np.where(fresh, np.arange(n), 0))]
    onset = np.ceil(last / cycle) + 1
    time = (onset + np.cumsum(block)) * cycle + rng.normal(0.0, 0.004, n)
    ventricular = rng.random(n) < min(patient.pvc, 0.03)
    time = time - np.where(ventricular, 0.35 * block * cycle, 0.0)
    focus = _foci(rng, n)
    return Heartbeats(
        time=time,
        kind=np.where(ventricular, PVC, BEAT),
        shape=np.where(ventricular, focus, NORMAL),
        rr=np.diff(time, prepend=last),
        rhythm=np.full(n, AFLUT),
        atrial_time=np.empty(0),
        atrial_origin=np.empty(0, np.int64),
    )
