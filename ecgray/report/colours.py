"""One colour per pretraining, the same in every figure and table; light and dark. Okabe & Ito's set, for colour-blind
readers, darkened or lightened to stand out from the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ecgray.report.tables import Row

INK, MUTED, RULE, PAPER = "#1c2126", "#5f6973", "#d5dae0", "#fefefe"
"""Text, secondary text, lines and background of a light figure."""

SERIES = {
    "none": ("#68717b", "#a3adb8"),
    "beat": ("#0072b2", "#58aee6"),
    "rhythm": ("#cc5500", "#f29355"),
    "heart_rate": ("#00805b", "#35c39a"),
    "future": ("#a8487f", "#df93c0"),
    "other": ("#8a6d00", "#e0bb3c"),
}
"""(light, dark) colour of each pretraining task."""

DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Look:
    """How a run is drawn; runs with the same pretraining share the colour and differ in dash and marker."""

    key: str
    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str


def looks(rows: Sequence[Row]) -> list[Look]:
    """A look per row."""
    found: list[Look] = []
    for row in rows:
        before = row.run.pretraining
        task = None if before is None or before.config is None else before.config.task.name
        key = "none" if row.run.config.pretrained is None else task if task in SERIES else "other"
        turn = sum(look.key == key for look in found)
        found.append(Look(key, SERIES[key][0], DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)]))
    return found


def css_variables() -> dict[str, tuple[str, str]]:
    """{CSS variable: (light, dark)} of the series' colours."""
    return {f"--series-{key}": colours for key, colours in SERIES.items()}


def as_css(svg: str) -> str:
    """The SVG with this module's colours as CSS variables, so that it follows the page's light or dark scheme."""
    pairs = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"}
    pairs |= {light: name for name, (light, _) in css_variables().items()}
    for colour, name in pairs.items():
        svg = svg.replace(colour, f"var({name})")
    return svg
