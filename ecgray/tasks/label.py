"""What a task asks of given frames, as a table and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ecgray.databases.record import BEATS, RHYTHMS
from ecgray.errors import EcgrayError, quoted
from ecgray.shards.archive import Archive
from ecgray.shards.strips import BEAT_COLOURS, RHYTHM_COLOURS
from ecgray.tasks.annotated import AnnotatedTask, Int64
from ecgray.tasks.base import IGNORED, Task

STRIPS = 20
"""Frames in one picture at most."""


def read_frames(file: Path) -> pd.DataFrame:
    """The table record (str), start (int64, samples) from a CSV file with these columns; database too where it is one.

    Raises EcgrayError for a missing file, a missing column, no row, or a start that is not a whole number.
    """
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as problem:
        reason = str(problem).splitlines()[0]
        raise EcgrayError(f"The frames must be a readable CSV file, got {file} ({reason}); check the path.") from None
    if not {"record", "start"} <= set(table.columns) or table.empty:
        columns = ", ".join(map(repr, table.columns))[:200]
        raise EcgrayError(
            f"The frames must be a CSV file with the columns record and start and at least one row, got {file} with "
            f"the columns {columns} and {len(table)} rows; write record,start on its first line."
        )
    starts = table["start"].str.strip()
    wrong = ~starts.str.fullmatch(r"[+-]?\d{1,18}")
    if wrong.any():
        line, text = int(np.argmax(wrong)) + 2, starts[wrong].iloc[0]
        raise EcgrayError(
            f"A start must be a whole number of samples, got {quoted(text)} in line {line} of {file}; correct it."
        )
    frames = pd.DataFrame({"record": table["record"].str.strip(), "start": starts.astype(np.int64)})
    return frames.assign(database=table["database"].str.strip()) if "database" in table.columns else frames


def label_frames(archive: Archive, task: Task, frame_size: int, frames: pd.DataFrame) -> pd.DataFrame:
    """``frames`` (record, start in samples) with one more column: label, the name of the class, '' for a frame that is
    dropped, or lies in a gap of its record, if only with one sample.

    A column database tells records of one name apart; without it a name must be unique in the archive.
    The heart rate of a frame at an end of its record is read from as much of its extended window as there is.
    Raises EcgrayError for an unknown record, a frame outside its record, and a task without classes.
    """
    if not isinstance(task, AnnotatedTask):
        raise EcgrayError(
            f"A task must have classes to label frames with, got '{task.name}', whose answer is drawn; "
            "use beat, rhythm or heart_rate."
        )
    record, start = _located(archive, frame_size, frames)
    targets = task.targets(record, start, frame_size, archive)
    names = np.array(task.classes, dtype=object)
    asked = (targets != IGNORED) & (archive.in_gap(record, start, frame_size) == 0)
    labels = np.where(asked, names[targets], "")
    names_only = frames[[name for name in ("database", "record", "start") if name in frames.columns]]
    return names_only.reset_index(drop=True).assign(label=labels)


def plot_frames(archive: Archive, task: Task, frame_size: int, frames: pd.DataFrame, file: Path) -> None:
    """A PNG with a strip per frame (the first 20): signal, beats, rhythms, the frame's limits and its label.

    ``frames`` is what ``label_frames`` gave. Raises EcgrayError as it does, and for a file that cannot be written.
    """
    record, start = _located(archive, frame_size, frames)
    shown = min(len(frames), STRIPS)
    figure = Figure(figsize=(14, 1.9 * shown + 1.0), layout="constrained")
    axes = figure.subplots(shown, 1, squeeze=False)[:, 0]
    for row, axis in enumerate(axes):
        name, label = frames["record"].iloc[row], frames["label"].iloc[row]
        _strip(axis, archive, task, int(record[row]), int(start[row]), frame_size)
        axis.set_title(f"{name} from sample {start[row]}: {label or 'dropped'}", loc="left", fontsize=10)
    axes[-1].set_xlabel("seconds from the record's start")
    left_out = "" if shown == len(frames) else f"; the first {shown} of {len(frames)} frames"
    figure.suptitle(f"{task.name}: frames of {frame_size} samples at {archive.fs:g} Hz{left_out}", fontsize=11)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=len(RHYTHMS), fontsize=8, frameon=False)
    try:
        figure.savefig(file, dpi=100, format="png")
    except OSError as problem:
        raise EcgrayError(
            f"The picture must be writable, got {file} ({problem.strerror}); choose another path."
        ) from None


def _located(archive: Archive, frame_size: int, frames: pd.DataFrame) -> tuple[Int64, Int64]:
    """(record, start) of frames given by record id; raises EcgrayError for one that does not exist."""
    if frame_size < 1:
        raise EcgrayError(
            f"A frame size must be at least 1 sample, got {frame_size}; the paper's are 512, 2048 and 4096."
        )
    by_database = "database" in frames.columns
    names = list(zip(frames["database"], frames["record"], strict=True)) if by_database else list(frames["record"])
    known = list(zip(archive.database, archive.record_id, strict=True)) if by_database else list(archive.record_id)
    index = {name: number for number, name in enumerate(known)}
    several = set(pd.Index(known)[pd.Index(known).duplicated()]) if len(index) < len(known) else set()
    for name, words in zip(names, frames["record"], strict=True):
        if name not in index:
            raise EcgrayError(
                f"A frame's record must be one of the {len(index)} in the shards, got {quoted(words)}"
                f"{f' of {quoted(name[0])}' if by_database else ''}; their names are like '{archive.record_id[0]}'."
            )
        if name in several:
            raise EcgrayError(
                f"A record's name must be unique in the shards, got {quoted(words)}, which several have; give one set."
            )
    record = np.array([index[name] for name in names], np.int64)
    start = frames["start"].to_numpy(np.int64)
    outside = (start < 0) | (start + frame_size > archive.samples[record])
    if outside.any():
        row = int(np.argmax(outside))
        raise EcgrayError(
            f"A frame must lie inside its record, got the {frame_size} samples from {start[row]} of "
            f"'{frames['record'].iloc[row]}', which has {archive.samples[record[row]]}; choose another start."
        )
    return record, start


def _legend() -> list[Artist]:
    """A row of beats above a row of rhythms; a legend is filled column by column."""
    beats = [
        Line2D([], [], color=colour, marker="v", linestyle="", label=f"{name} beat")
        for name, colour in BEAT_COLOURS.items()
    ]
    beats += [Line2D([], [], linestyle="", label=" ")] * (len(RHYTHMS) - len(BEATS))
    rhythms = [Patch(color=colour, label=f"{name} rhythm") for name, colour in RHYTHM_COLOURS.items()]
    return [handle for column in zip(beats, rhythms, strict=True) for handle in column]


def _strip(axis: Axes, archive: Archive, task: Task, record: int, start: int, frame_size: int) -> None:
    """One frame with a second of signal, or the task's labelled window, on either side."""
    fs, end = archive.fs, start + frame_size
    before, after = task.window(frame_size, fs)
    left = max(start - max(before, round(fs)), 0)
    right = min(max(start + after, end + round(fs)), int(archive.samples[record]))
    counts = archive.cut(np.array([record]), np.array([left]), right - left)[0, 0].astype(np.float64)
    signal = (counts - archive.baseline[record, 0]) / archive.gain[record, 0]
    axis.plot(np.arange(left, right) / fs, signal, color="black", linewidth=0.7)
    axis.axvspan(left / fs, start / fs, color="black", alpha=0.08, linewidth=0)
    axis.axvspan(end / fs, right / fs, color="black", alpha=0.08, linewidth=0)
    for limit in (start, end):
        axis.axvline(limit / fs, color="black", linewidth=1.0, linestyle="--")
    for first, last, kind in archive.rhythms(record):
        if first < right and last > left:
            limits = max(first, left) / fs, min(last, right) / fs
            axis.axvspan(*limits, ymax=0.06, color=RHYTHM_COLOURS[RHYTHMS[kind]], linewidth=0)
    samples, kinds = archive.beats(record)
    inside = (samples >= left) & (samples < right)
    colours = [BEAT_COLOURS[BEATS[kind]] for kind in kinds[inside]]
    axis.scatter(
        samples[inside] / fs,
        np.full(len(colours), 0.94),
        c=colours,
        marker="v",
        s=22,
        transform=axis.get_xaxis_transform(),
    )
    axis.set_xlim(left / fs, right / fs)
    axis.margins(y=0.18)
    axis.set_ylabel(f"{archive.leads[0]} (mV)", fontsize=8)
