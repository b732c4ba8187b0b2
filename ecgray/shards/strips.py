"""Strips of signal in mV on ECG paper with their beats and rhythms, as inline SVG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from ecgray.databases.record import BEATS, RHYTHMS
from ecgray.shards.archive import Archive

SECONDS = 10.0
BEAT_COLOURS = dict(zip(BEATS, ("#7d7d7d", "#1f6f43", "#b45f06", "#7c3aed", "#c81e1e"), strict=True))
RHYTHM_COLOURS = dict(zip(RHYTHMS, ("#d4d4d4", "#8d8d8d", "#8fceab", "#f09a9a", "#f6c177", "#9dbcec"), strict=True))
"""On a light ground."""
_DARK_BEATS = ("#a5a5a5", "#5cc98a", "#f0a94a", "#b794ff", "#ff7b72")
_DARK_RHYTHMS = ("#4a4a4a", "#6a6a6a", "#2f6b48", "#8c3d3d", "#8a6224", "#3a5f96")
COLOURS = {
    f"--{kind}-{name}": (light, dark)
    for kind, colours, darks in (("beat", BEAT_COLOURS, _DARK_BEATS), ("rhythm", RHYTHM_COLOURS, _DARK_RHYTHMS))
    for (name, light), dark in zip(colours.items(), darks, strict=True)
}
"""{CSS variable: (light, dark)} of what strips mark; the page that shows them says which of the two it is."""
BEAT_MARKS = dict(zip(BEATS, "?NSaV", strict=True))

_SECOND, _MV, _TOP, _BAND = 96.0, 38.4, 22.0, 16.0
"""Pixels: paper speed and gain in the usual ratio of 25 mm/s to 10 mm/mV, room for beat marks, height of the band."""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Where a strip lies and what it is an example of."""

    title: str
    record: int
    start: int


def choose_strips(archive: Archive) -> list[Strip]:
    """One strip per beat class, rhythm class and label that occurs, from the record that has most of it (a label: the
    middle one of its records); the first records where there is nothing of the kind."""
    strips = list(_examples(archive))
    return strips or [Strip(title="a record", record=record, start=0) for record in range(min(4, len(archive)))]


def _examples(archive: Archive) -> Iterator[Strip]:
    for code, name in enumerate(BEATS):
        record = int(archive.beat_totals[:, code].argmax())
        if archive.beat_totals[record, code]:
            samples, classes = archive.beats(record)
            found = samples[classes == code]
            yield Strip(
                title=f"beat: {name}", record=record, start=_around(archive, record, int(found[len(found) // 2]))
            )
    for code, name in enumerate(RHYTHMS):
        record = int(archive.rhythm_samples[:, code].argmax())
        if archive.rhythm_samples[record, code]:
            zones = archive.rhythms(record)
            zones = zones[zones[:, 2] == code]
            first = zones[(zones[:, 1] - zones[:, 0]).argmax()]
            yield Strip(title=f"rhythm: {name}", record=record, start=_around(archive, record, int(first[0])))
    records: dict[str, list[int]] = {}
    for record, labels in enumerate(archive.labels):
        for label in labels:
            records.setdefault(label, []).append(record)
    for label in sorted(records):
        found_in = records[label]
        record = found_in[len(found_in) // 2]
        middle = int(archive.samples[record] // 2)
        yield Strip(title=f"label: {label}", record=record, start=_around(archive, record, middle))


def _around(archive: Archive, record: int, sample: int) -> int:
    span = int(SECONDS * archive.fs)
    return int(np.clip(sample - span // 2, 0, max(0, archive.samples[record] - span)))


def draw_strip(archive: Archive, strip: Strip) -> str:
    """The strip as an SVG element: leads from top to bottom on one time axis."""
    record, start = strip.record, strip.start
    end = min(start + int(SECONDS * archive.fs), int(archive.samples[record]))
    signal = archive.cut([record], [start], end - start)[0]
    mv = (signal - archive.baseline[record][:, None]) / archive.gain[record][:, None]
    ranges = [_range(values) for values in mv]
    bottom = _TOP + sum(high - low for low, high in ranges) * _MV
    width = SECONDS * _SECOND
    parts = [f'<svg viewBox="0 0 {width:.0f} {bottom + _BAND + 14:.0f}" role="img" aria-label="{escape(strip.title)}">']
    parts += _paper(width, _TOP, bottom)
    times = np.arange(end - start) / archive.fs * _SECOND
    top = _TOP
    for name, values, (low, high) in zip(_lead_names(archive, record), mv, ranges, strict=True):
        zero = top + high * _MV
        points = " ".join(
            f"{x:.1f},{y:.1f}" for x, y in zip(times, zero - np.clip(values, low, high) * _MV, strict=True)
        )
        parts.append(f'<polyline points="{points}" class="trace"/>')
        parts.append(f'<text x="4" y="{top + 14:.0f}" class="lead">{escape(name)}</text>')
        top += (high - low) * _MV
    parts += _gaps(archive, record, start, end, bottom)
    parts += _beats(archive, record, start, end, bottom)
    parts += _rhythms(archive, record, start, end, bottom)
    first = start / archive.fs
    parts += [
        f'<text x="{second * _SECOND:.0f}" y="{bottom + _BAND + 11:.0f}" class="time">{first + second:.1f} s</text>'
        for second in range(0, int(SECONDS), 2)
    ]
    return "".join([*parts, "</svg>"])


def _lead_names(archive: Archive, record: int) -> tuple[str, ...]:
    """Names of the archive; a single lead may have a name of its own in each set."""
    if len(archive.leads) > 1:
        return archive.leads
    ends = np.cumsum([manifest.records for manifest in archive.manifests])
    return archive.manifests[int(np.searchsorted(ends, record, side="right"))].leads


def _range(mv: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Lowest and highest mV shown of a lead, in halves; at least 1.5 mV, artefacts beyond 4 mV off the median cut."""
    middle = float(np.median(mv))
    low, high = max(float(mv.min()), middle - 4), min(float(mv.max()), middle + 4)
    low, high = float(np.floor(low * 2) / 2), float(np.ceil(high * 2) / 2)
    return low, max(high, low + 1.5)


def _paper(width: float, top: float, bottom: float) -> list[str]:
    """Lines each 0.2 s and 0.5 mV, as on ECG paper's large squares."""
    across = "".join(f"M{x:.1f} {top}V{bottom:.1f}" for x in np.arange(0, width + 1, _SECOND / 5))
    down = "".join(f"M0 {y:.1f}H{width:.1f}" for y in np.arange(top, bottom + 1, _MV / 2))
    return [f'<path d="{across}{down}" class="paper"/>']


def _gaps(archive: Archive, record: int, start: int, end: int, bottom: float) -> list[str]:
    """What is interpolated, covered."""
    parts = []
    for begin, finish in np.clip(archive.gaps[archive.gaps[:, 0] == record, 1:], start, end).tolist():
        if begin < finish:
            x, width = (begin - start) / archive.fs * _SECOND, (finish - begin) / archive.fs * _SECOND
            parts.append(
                f'<rect x="{x:.1f}" y="{_TOP}" width="{width:.1f}" height="{bottom - _TOP:.1f}" class="gap">'
                "<title>samples are missing</title></rect>"
            )
    return parts


def _beats(archive: Archive, record: int, start: int, end: int, bottom: float) -> list[str]:
    samples, classes = archive.beats(record)
    inside = (samples >= start) & (samples < end)
    parts = []
    for sample, code in zip(samples[inside].tolist(), classes[inside].tolist(), strict=True):
        x, name = (sample - start) / archive.fs * _SECOND, BEATS[code]
        parts.append(
            f'<path d="M{x:.1f} {_TOP - 4}V{bottom:.1f}" stroke="var(--beat-{name})" class="beat"/>'
            f'<text x="{x:.1f}" y="{_TOP - 8}" fill="var(--beat-{name})" class="mark">{BEAT_MARKS[name]}</text>'
        )
    return parts


def _rhythms(archive: Archive, record: int, start: int, end: int, bottom: float) -> list[str]:
    parts = []
    for begin, finish, code in archive.rhythms(record).tolist():
        name, begin, finish = RHYTHMS[code], max(begin, start), min(finish, end)
        if begin < finish:
            x, width = (begin - start) / archive.fs * _SECOND, (finish - begin) / archive.fs * _SECOND
            parts.append(
                f'<rect x="{x:.1f}" y="{bottom:.1f}" width="{width:.1f}" height="{_BAND}" fill="var(--rhythm-{name})"/>'
            )
            if width > 40:
                parts.append(f'<text x="{x + 4:.1f}" y="{bottom + 12:.1f}" class="band">{name}</text>')
    return parts
