"""The report: one page without network access, the same as Markdown, the scores as CSV, the figures as PNG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ecgray.errors import EcgrayError
from ecgray.report import figures
from ecgray.report.colours import looks
from ecgray.report.examples import find_examples
from ecgray.report.markdown import markdown
from ecgray.report.page import page
from ecgray.report.read_runs import read_run
from ecgray.report.tables import Tables, make_tables, scores_table
from ecgray.shards.manifest import write_atomically
from ecgray.shards.partial import remove_dead
from ecgray.shards.storage import is_remote, join, resolve, size_of
from ecgray.shards.working import written


def write_report(runs: Sequence[Path | str], out: Path | str) -> Path | str:
    """Report on finetuning runs and evaluations; returns out/report.html.

    Beside it: report.md, scores.csv (one row per run, seed and score), figure3.png, seeds.png and confusion-<run>.png.
    Everything is computed from the predictions in the run folders. Raises EcgrayError for a folder that is no finished
    run, for a run given twice, and for an ``out`` that cannot be a folder of its own or be written.
    """
    folders = [resolve(run) for run in runs]
    out = resolve(out) if is_remote(out) else Path(out).expanduser()
    if not folders:
        raise EcgrayError("A report needs at least one run, got none; give folders that 'ecgray finetune' has written.")
    twice = sorted({folder for folder in folders if folders.count(folder) > 1})
    if twice:
        raise EcgrayError(f"Every run must be given once, got {', '.join(twice)} several times; leave the others out.")
    refuse_folder_of_runs(out)
    tables = make_tables([read_run(folder) for folder in folders])
    try:
        with written(out, "report.html") as folder:
            _write(tables, folder)
    except OSError as error:
        raise EcgrayError(
            f"The report must be written to '{out}', got: {error}; free some space or give another --out."
        ) from error
    return join(out, "report.html") if isinstance(out, str) else out / "report.html"


def refuse_folder_of_runs(out: Path | str) -> None:
    """Raises EcgrayError when ``out`` (folder or URL) is a run, a sweep or no folder."""
    names = ("config.json", "sweep.json")
    if isinstance(out, str):
        taken = any(size_of(join(out, name)) is not None for name in names)
    else:
        taken = (out.exists() and not out.is_dir()) or any((out / name).exists() for name in names)
    if taken:
        raise EcgrayError(f"The report must go into a folder of its own, got '{out}'; give another --out.")


def _write(tables: Tables, out: Path) -> None:
    """Pictures and tables first, the page that shows them last; each file is whole or absent."""
    rows, styles = tables.rows, looks(tables.rows)
    examples, reason = find_examples(tables)
    out.mkdir(parents=True, exist_ok=True)
    curves, strip = figures.validation_curves(rows, styles), figures.seed_strip(rows, styles)
    images = [("Macro F1 of every seed", "seeds.png")]
    figures.save_png(strip, out / "seeds.png")
    if curves is not None:
        images.append(("Validation macro F1 per epoch", "figure3.png"))
        figures.save_png(curves, out / "figure3.png")
    for index, (row, look) in enumerate(zip(rows, styles, strict=True)):
        name = f"confusion-{index + 1:02d}-{re.sub(r'[^a-z0-9]+', '-', row.label.lower())[:80].strip('-')}.png"
        images.append((f"Confusion matrix: {row.label}", name))
        figures.save_png(figures.confusion_matrix(row, look), out / name)
    write_atomically(out / "scores.csv", scores_table(rows).to_csv(index=False).encode())
    write_atomically(out / "report.md", markdown(tables, images).encode())
    write_atomically(out / "report.html", page(tables, styles, curves, strip, examples, reason).encode())
    pictures = ("figure3.png", "confusion-[0-9][0-9]-*.png")
    for old in {old for name in pictures for old in out.glob(name)} - {out / name for _, name in images}:
        old.unlink(missing_ok=True)  # of an earlier report of other runs
    for name in pictures:
        remove_dead(out, name)
