"""Example recordings with what they are and what the runs said, the signals read from the shard set of the run."""

from __future__ import annotations

import io
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt
import pandas as pd

from ecgray.errors import EcgrayError
from ecgray.report.tables import Row, Tables
from ecgray.shards.archive import Archive, open_archive

SHOWN_S = 10.0
"""Seconds of each recording that are drawn."""
_WIDTH, _HEIGHT, _MV = 1000, 200, 1.5
"""Size of a strip in SVG units, and the mV from its middle to its edge unless the signal asks for more."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A recording of the test set.

    votes: (label of the run, class that most of its seeds said, seeds that said so, seeds) for every run that tested
    it; signal: (samples,) mV from ``start_s`` on, at ``fs`` Hz, of a recording of ``length_s`` seconds.
    """

    database: str
    record: str
    true: str
    right: bool
    votes: list[tuple[str, str, int, int]]
    signal: npt.NDArray[np.float32]
    fs: float
    start_s: float
    length_s: float


def find_examples(tables: Tables) -> tuple[list[Example], str]:
    """Per class the recordings that ``Tables.best`` got right and wrong most clearly, with what the runs said that were
    scored on the same ones; and why there are none if so. Of equal recordings it is the first by name."""
    best = tables.best
    try:
        archives = _open(best)
    except (EcgrayError, OSError) as error:
        return [], f"The signals of {best.label} cannot be shown: {error}"
    places = {
        (str(archive.database[index]), str(archive.record_id[index])): (archive, index)
        for archive in archives
        for index in range(len(archive))
    }
    votes = {row.label: _votes(row.run.scored) for row in tables.ranked[0]}
    own = votes[best.label]
    own = own[[key in places for key in own.index]]
    if own.empty:
        return [], f"The shard sets of {best.label} no longer hold the recordings that it was tested on."
    examples = []
    for true in best.run.classes:
        of_class = own[own["label"] == true]
        for right in (True, False):
            chosen = of_class[(of_class["predicted"] == true) == right].sort_values(
                "agreeing", ascending=False, kind="stable"
            )
            if len(chosen):
                key = chosen.index[0]
                archive, index = places[key]
                examples.append(_example(archive, index, key, true, right, votes))
    return examples, ""


def _open(row: Row) -> list[Archive]:
    """The run's shard sets, refused when their content is no longer what the run has seen."""
    known = set(row.run.manifest_hashes) | {str(row.run.environment.get("sources", {}).get("test"))}
    archives = []
    for path in dict.fromkeys(row.run.signal_shards):
        archive = open_archive([path])
        if not {manifest.hash for manifest in archive.manifests} <= known:
            raise EcgrayError(f"the shard set at {path} is another one by now")
        archives.append(archive)
    if not archives:
        raise EcgrayError("the run names no shard set")
    return archives


def _votes(scored: pd.DataFrame) -> pd.DataFrame:
    """Per (database, record), in order of names: label, the class said most often, seeds that said it, seeds."""
    counts = scored.groupby(["database", "record", "label", "predicted"]).size().rename("agreeing").reset_index()
    seeds = counts.groupby(["database", "record"])["agreeing"].sum().rename("seeds")
    counts = counts.sort_values(["database", "record", "agreeing"], ascending=[True, True, False], kind="stable")
    return counts.drop_duplicates(["database", "record"]).set_index(["database", "record"]).join(seeds)


def _example(
    archive: Archive, index: int, key: tuple[str, str], true: str, right: bool, votes: dict[str, pd.DataFrame]
) -> Example:
    signal = archive.signal_mv(index)[0]
    shown = min(len(signal), round(SHOWN_S * archive.fs))
    start = (len(signal) - shown) // 2
    said = []
    for name, table in votes.items():
        if key in table.index:
            found = table.loc[key]
            said.append((name, str(found["predicted"]), int(found["agreeing"]), int(found["seeds"])))
    return Example(
        database=key[0],
        record=key[1],
        true=true,
        right=right,
        votes=said,
        signal=signal[start : start + shown],
        fs=archive.fs,
        start_s=start / archive.fs,
        length_s=len(signal) / archive.fs,
    )


def strip_svg(example: Example, number: int) -> str:
    """The recording on ECG paper (0.2 s by 0.5 mV), as an <svg> element in the page's colours."""
    signal = np.nan_to_num(example.signal.astype(np.float64))
    signal = signal - np.median(signal)
    reach = max(_MV, 1.05 * float(np.abs(signal).max(initial=0.0)))
    x = np.arange(len(signal)) / example.fs / SHOWN_S * _WIDTH
    y = _HEIGHT / 2 * (1 - signal / reach)
    path = io.StringIO()
    np.savetxt(path, np.column_stack([x, y]), fmt="%.1f", newline=" ")
    cell_x, cell_y = _WIDTH * 0.2 / SHOWN_S, _HEIGHT / 2 * 0.5 / reach
    words = f"{len(signal) / example.fs:.0f} s of recording {example.record}, true class {example.true}"
    return (
        f'<svg class="strip" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(words, quote=True)}">'
        f'<defs><pattern id="ecg-{number}" width="{cell_x:.3f}" height="{cell_y:.3f}" y="{_HEIGHT / 2}" '
        f'patternUnits="userSpaceOnUse"><path d="M{cell_x:.3f} 0H0V{cell_y:.3f}" class="grid"/></pattern></defs>'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="url(#ecg-{number})"/>'
        f'<polyline class="trace" points="{path.getvalue().strip()}"/></svg>'
    )
