"""Figures of a sweep: scores over trials, probes over steps, parallel coordinates, importance, score against cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ecgray.report.colours import INK, MUTED, PAPER, RULE, SERIES
from ecgray.report.figures import STYLE, WIDTH, new_figure
from ecgray.report.read_sweep import Sweep, SweptTrial

HEIGHT = 3.5
ABSENT = "\u2013"


def history(sweep: Sweep) -> Figure:
    """Score of every complete trial and the best so far; ticks below for those that were stopped or failed."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(HEIGHT)
        done = sweep.complete
        if done:
            best = np.maximum.accumulate([trial.score for trial in done])
            axes.step([t.number for t in done], best, where="post", color=INK, linewidth=1.2, label="best so far")
        for trial in done:
            axes.plot(trial.number, trial.score, "o", color=_colour(trial), ms=6, mec=PAPER, mew=0.6)
        low, high = axes.get_ylim()
        floor = low - 0.09 * (high - low)
        for trial in sweep.trials:
            if trial.state in ("PRUNED", "FAIL"):
                marker = "x" if trial.state == "FAIL" else "|"
                axes.plot(trial.number, floor, marker, color=_colour(trial), ms=7, mew=1.6)
        axes.set_xlabel("trial")
        axes.set_ylabel("validation macro F1")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        marks = [_mark("|", MUTED, "stopped early"), _mark("x", MUTED, "failed")]
        _legend(axes, sweep, [Line2D([], [], color=INK, lw=1.2, label="best so far"), *marks])
    return figure


def stopping(sweep: Sweep) -> Figure | None:
    """The probe of every trial over its pretraining steps; a cross where a trial was stopped. None without probes."""
    probed = [trial for trial in sweep.trials if trial.probes]
    if not probed:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(HEIGHT)
        for trial in probed:
            steps, values = zip(*sorted(trial.probes.items()), strict=True)
            pruned = trial.state == "PRUNED"
            style: dict[str, Any] = {"color": _colour(trial), "linewidth": 1.3, "alpha": 0.5 if pruned else 0.95}
            axes.plot(steps, values, marker="o", ms=3.2, **style)
            if pruned:
                axes.plot(steps[-1], values[-1], "x", color=_colour(trial), ms=7, mew=1.8)
        rungs = sorted({steps for trial in probed for steps in trial.probes})
        axes.set_xscale("log")
        axes.set_xticks(rungs, [f"{steps:,}" for steps in rungs])
        axes.set_xticks([], minor=True)
        axes.set_xlim(rungs[0] / 1.3, rungs[-1] * 1.3)
        axes.set_xlabel("pretraining steps")
        axes.set_ylabel("probe, validation macro F1")
        _legend(axes, sweep, [_mark("x", MUTED, "stopped here")])
    return figure


def parallel_coordinates(sweep: Sweep) -> Figure | None:
    """A line per trial through its values and its score; trials without a score are grey and end before it."""
    names = list(dict.fromkeys(name for trial in sweep.trials for name in trial.params))
    if not names or not sweep.complete:
        return None
    ended = [trial for trial in sweep.trials if trial.state in ("COMPLETE", "PRUNED") and trial.params]
    scores = [trial.score for trial in sweep.complete]
    low, high = min(scores), max(scores)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(HEIGHT + 0.3, 2 * WIDTH)
        axes.grid(visible=False)
        places = {}
        boxed = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
        for column, name in enumerate(names):
            places[name], labels = _scale([trial.params.get(name) for trial in sweep.trials], name)
            axes.plot([column, column], [0, 1], color=RULE, linewidth=1, zorder=0)
            for place, label in labels:
                axes.text(column + 0.03, place, label, fontsize=8.5, color=INK, va="center", zorder=4, bbox=boxed)
        for trial in sorted(ended, key=lambda trial: (not math.isnan(trial.score), trial.score)):
            line = [places[name](trial.params.get(name)) for name in names]
            jitter = 0.012 * ((trial.number * 7) % 5 - 2)
            line = [place + jitter for place in line]
            if math.isnan(trial.score):
                axes.plot(range(len(names)), line, color=MUTED, linewidth=0.7, alpha=0.4, linestyle=(0, (3, 2)))
                continue
            line.append((trial.score - low) / (high - low) if high > low else 0.5)
            best = trial is sweep.best
            style: dict[str, Any] = {"linewidth": 2.4 if best else 1.1, "alpha": 1.0 if best else 0.7}
            axes.plot(range(len(line)), line, color=_colour(trial), **style)
        last = len(names)
        axes.plot([last, last], [0, 1], color=INK, linewidth=1, zorder=0)
        for share in (0.0, 0.5, 1.0):
            axes.text(last + 0.04, share, f"{low + share * (high - low):.3f}", fontsize=8.5, va="center")
        axes.set_xticks(range(last + 1), [*(short_name(name) for name in names), "macro F1"])
        axes.set_yticks([])
        axes.set_xlim(-0.15, last + 0.45)
        axes.spines["bottom"].set_visible(False)
        axes.legend(handles=_tasks(sweep), loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=6, fontsize=9)
    return figure


def importance(shares: dict[str, float]) -> Figure:
    """Bars: the share of the scores' variance that each value explains."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(max(1.6, 0.8 + 0.38 * len(shares)))
        names = sorted(shares, key=lambda name: shares[name])
        axes.barh([short_name(name) for name in names], [shares[name] for name in names], color=MUTED, height=0.55)
        for place, name in enumerate(names):
            axes.text(shares[name] + 0.01, place, f"{shares[name]:.2f}", va="center", fontsize=9)
        axes.set_xlim(0, max(1e-9, max(shares.values())) * 1.15)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("share of the scores' variance")
    return figure


def cost(sweep: Sweep) -> Figure | None:
    """Score against device-seconds; the trials that no other beats in both are joined. None with one objective."""
    trials = [trial for trial in sweep.complete if not math.isnan(trial.cost)]
    if not trials:
        return None
    front = [a for a in trials if not any(_beats(b, a) for b in trials)]
    front.sort(key=lambda trial: trial.cost)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(HEIGHT)
        axes.step([t.cost for t in front], [t.score for t in front], where="post", color=INK, linewidth=1)
        for trial in trials:
            axes.plot(trial.cost, trial.score, "o", color=_colour(trial), ms=6, mec=PAPER, mew=0.6)
        axes.set_xlabel("device-seconds")
        axes.set_ylabel("validation macro F1")
        _legend(axes, sweep, [Line2D([], [], color=INK, lw=1, label="best for its cost")])
    return figure


def short_name(name: str) -> str:
    """ "frame size" for pretrain.sampling.frame_size."""
    return name.rpartition(".")[2].replace("_", " ")


def _beats(one: SweptTrial, other: SweptTrial) -> bool:
    a, b = (one.score, -one.cost), (other.score, -other.cost)
    return a[0] >= b[0] and a[1] >= b[1] and a != b


def _scale(values: Sequence[Any], name: str) -> tuple[Any, list[tuple[float, str]]]:
    """(value to its place in 0 to 1, [(place, label)]) of one axis; numbers on a log scale where they spread far."""
    given = [value for value in values if value is not None]
    numbers = all(isinstance(value, (int, float)) for value in given)
    if numbers and len(set(given)) > 4:
        far = min(given) > 0 and max(given) / min(given) > 20
        low, high = (float(np.log(v)) if far else float(v) for v in (min(given), max(given)))
        width = high - low or 1.0

        def place(value: Any) -> float:
            return -0.12 if value is None else ((float(np.log(value)) if far else value) - low) / width

        ends = [(0.0, f"{min(given):.3g}"), (1.0, f"{max(given):.3g}")]
        return place, ends + ([(-0.12, ABSENT)] if len(given) < len(values) else [])
    levels = sorted(set(given)) if numbers else list(dict.fromkeys(given))
    places = {level: (i + 0.5) / len(levels) for i, level in enumerate(levels)}
    labels = [(at, str(level).replace("_", " ")) for level, at in places.items()]
    if len(given) < len(values):
        places[None], labels = -0.12, [*labels, (-0.12, ABSENT)]
    return places.__getitem__, labels


def _colour(trial: SweptTrial) -> str:
    return SERIES.get(trial.task, SERIES["other"])[0]


def _mark(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, linestyle="", ms=6, mew=1.6, label=label)


def _tasks(sweep: Sweep) -> list[Line2D]:
    seen = {trial.task for trial in sweep.trials}
    return [_mark("o", SERIES[task][0], task.replace("_", " ")) for task in SERIES if task in seen and task != "other"]


def _legend(axes: Axes, sweep: Sweep, more: list[Line2D]) -> None:
    axes.legend(
        handles=[*_tasks(sweep), *more],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=4,
        fontsize=9,
        handlelength=1.4,
        columnspacing=1.2,
    )
