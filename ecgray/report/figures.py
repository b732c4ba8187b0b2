"""Figures: validation F1 per epoch (the paper's Figure 3), seeds as dots, confusion matrices."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ecgray.report import words
from ecgray.report.colours import INK, MUTED, PAPER, RULE, Look, as_css
from ecgray.report.tables import Row
from ecgray.shards.manifest import write_atomically

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "ecgray",
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
WIDTH = 5.4
"""Inches; one width on the page, so that text has one size throughout."""
HEIGHT = 3.5
IN_AXES, SHORT = 6, 34
"""Curves, and letters of their names, whose legend has room among them; that of more stands below."""
BESIDE_AXES, BELOW_AXES = 26, 56
"""Letters of a line of a run's name left of the axes, and in a legend below them."""


def validation_curves(rows: Sequence[Row], looks: Sequence[Look]) -> Figure | None:
    """Validation macro F1 per epoch, mean and band of one sd (n - 1) over seeds; None without histories.

    From the epoch on at which a first seed has stopped, the mean of the others is faint: it is no longer of all.
    """
    if all(row.run.history.empty for row in rows):
        return None
    with matplotlib.rc_context(STYLE):
        below = len(rows) > IN_AXES or max(len(row.label) for row in rows) > SHORT
        names = [folded(row.label, BELOW_AXES) for row in rows]
        lines = sum(name.count("\n") + 1 for name in names)
        figure, axes = new_figure(HEIGHT + 0.21 * lines if below else _height(rows))
        for row, look, name in zip(rows, looks, names, strict=True):
            if row.run.history.empty:
                continue
            table = row.run.history.pivot(index="epoch", columns="seed", values="val_macro_f1")
            mean, sd = table.mean(axis=1), table.std(axis=1, ddof=1).fillna(0.0)
            whole = table.notna().all(axis=1)
            style: dict[str, Any] = {"color": look.colour, "linestyle": look.dash, "linewidth": 1.7}
            axes.plot(mean.index[whole], mean[whole], label=name, **style)
            late = mean[mean.index >= mean.index[whole].max()] if whole.any() else mean
            axes.plot(late.index, late, **(style | {"alpha": 0.35, "linewidth": 1.2}))
            axes.fill_between(
                mean.index[whole],
                (mean - sd)[whole],
                (mean + sd)[whole],
                color=look.colour,
                alpha=0.13,
                linewidth=0,
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation macro F1")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        text: dict[str, Any] = {"fontsize": 9.5, "handlelength": 2.4}
        if below:
            figure.legend(loc="outside lower left", **text)
        else:
            axes.legend(loc="lower right", **text)
    return figure


def seed_strip(rows: Sequence[Row], looks: Sequence[Look]) -> Figure:
    """Macro F1 of every seed as a dot, their mean with its 95 % interval, and the published mean +- sd above."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(_height(rows))
        for place, (row, look) in enumerate(zip(rows, looks, strict=True)):
            cell = row.scores["macro_f1"]
            spread = np.linspace(-0.13, 0.13, len(cell.values)) if len(cell.values) > 1 else np.zeros(1)
            axes.plot([cell.low, cell.high], [place, place], color=look.colour, linewidth=6, alpha=0.22)
            axes.scatter(
                cell.values, place + spread, s=22, color=look.colour, marker=look.marker, alpha=0.85, linewidths=0
            )
            axes.plot([cell.mean] * 2, [place - 0.22, place + 0.22], color=look.colour, linewidth=2.2)
            if "macro_f1" in row.published:
                mean, sd = row.published["macro_f1"]
                axes.errorbar(mean, place - 0.35, xerr=sd, fmt="D", ms=4, mfc=PAPER, color=INK, lw=1, capsize=2.5)
        axes.set_yticks(range(len(rows)), [folded(row.label, BESIDE_AXES) for row in rows])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(rows) - 0.5, -0.65)
        axes.set_xlabel("macro F1")
        axes.grid(axis="y", visible=False)
    return figure


def confusion_matrix(row: Row, look: Look) -> Figure:
    """Counts over all seeds, shaded by their share of the true class."""
    counts = row.confusion
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [words.class_word(name) for name in row.run.classes]
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.6, 4.3)
        axes.grid(visible=False)
        axes.imshow(np.ones_like(shares), cmap=_single(look.colour), alpha=0.05 + 0.55 * shares)
        for (true, said), share in np.ndenumerate(shares):
            text = f"{share:.0%}\n{counts[true, said]:,}"
            axes.text(said, true, text, ha="center", va="center", color=INK, fontsize=9)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(folded(row.label, 44))
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def as_svg(figure: Figure, name: str, description: str) -> str:
    """An <svg> element to stand in a page: scalable, described for screen readers, in the page's colours."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([^;\"]*?)(\d+(\.\d+)?px) [^;\"]*", r"font-size: \2", svg)
    svg = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-labelledby="{name}">', svg)
    title = description.replace("&", "&amp;").replace("<", "&lt;")
    return as_css(svg).replace(
        f'aria-labelledby="{name}">', f'aria-labelledby="{name}"><title id="{name}">{title}</title>', 1
    )


def save_png(figure: Figure, path: Path) -> None:
    """A light PNG at 200 dots per inch, whole or absent."""
    picture = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(picture, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    write_atomically(path, picture.getvalue())


def curve_summary(row: Row) -> str:
    """A run's validation curve in words, for those who do not see it."""
    best = row.run.history.groupby("seed")["val_macro_f1"].max()
    epochs = row.run.history.groupby("seed")["epoch"].max()
    return f"{row.label}: best epoch {best.mean():.3f} on average, {epochs.min()} to {epochs.max()} epochs"


def _height(rows: Sequence[Row]) -> float:
    """Inches: enough for every run's label, and so for a curve of each whose legend is among them."""
    lines = max(folded(row.label, BESIDE_AXES).count("\n") + 1 for row in rows)
    return max(HEIGHT, 0.9 + (0.33 + 0.17 * lines) * len(rows))


def folded(label: str, letters: int) -> str:
    """A run's label in lines of so many letters; names may break behind an underscore."""
    return "\n".join(textwrap.wrap(label.replace("_", "_ "), letters)).replace("_ ", "_")


def new_figure(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure of this size in inches, and its axes with a grid and without a frame."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    return figure, axes


def _single(colour: str) -> matplotlib.colors.Colormap:
    return matplotlib.colors.ListedColormap([colour])
