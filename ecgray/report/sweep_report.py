"""The report of a sweep: one page without network access, its figures as PNG, its trials as CSV."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from ecgray.config import to_dict
from ecgray.recipes import published
from ecgray.report import figures, sweep_figures, words
from ecgray.report.colours import css_variables, looks
from ecgray.report.page import template
from ecgray.report.read_runs import read_run
from ecgray.report.read_sweep import Sweep, read_sweep
from ecgray.report.report import refuse_folder_of_runs, write_report
from ecgray.report.tables import Tables, make_tables
from ecgray.shards.manifest import write_atomically
from ecgray.shards.storage import is_remote, join, resolve
from ecgray.shards.working import written

STATES = {"PRUNED": "stopped", "FAIL": "failed"}
FEW = 4
"""Below so many complete trials, importance is not computed."""


def write_sweep_report(path: Path | str, out: Path | str) -> Path | str:
    """Report on the sweep in the folder ``path``, finished or not; returns out/report.html (``out``: folder or URL).

    Beside it: trials.csv, a PNG of every figure, and final/ with the full report of the winner and the baselines.
    Raises EcgrayError for a folder that holds no sweep, and for an ``out`` that cannot be a folder of its own.
    """
    sweep = read_sweep(Path(path).expanduser().resolve())
    out = resolve(out) if is_remote(out) else Path(out).expanduser()
    refuse_folder_of_runs(out)
    runs = [sweep.folder.final / name for name in sweep.finals]
    runs = [run for run in runs if (run / "predictions.parquet").is_file()]
    tables = make_tables([read_run(run) for run in runs]) if runs else None
    shares, reason = _importance(sweep)
    drawn: dict[str, Figure | None] = {
        "history": sweep_figures.history(sweep),
        "stopping": sweep_figures.stopping(sweep),
        "cost": sweep_figures.cost(sweep),
        "parallel": sweep_figures.parallel_coordinates(sweep),
        "importance": sweep_figures.importance(shares) if shares else None,
    }
    with written(out, "report.html") as folder:
        folder.mkdir(parents=True, exist_ok=True)
        if runs:
            write_report(runs, folder / "final")
        for name, figure in drawn.items():
            if figure is not None:
                figures.save_png(figure, folder / f"{name}.png")
        write_atomically(folder / "trials.csv", _trials(sweep).to_csv(index=False).encode())
        write_atomically(folder / "report.html", _page(sweep, tables, drawn, reason).encode())
    return join(out, "report.html") if isinstance(out, str) else out / "report.html"


def _page(sweep: Sweep, tables: Tables | None, drawn: dict[str, Figure | None], no_importance: str) -> str:
    svgs = {
        name: "" if figure is None else Markup(figures.as_svg(figure, name, _in_words(name, sweep)))
        for name, figure in drawn.items()
    }
    rows = [] if tables is None else list(zip(tables.rows, looks(tables.rows), strict=True))
    return template("sweep.html").render(
        sweep=sweep,
        headline=_headline(sweep, tables),
        notices=_notices(sweep),
        words=words,
        tables=tables,
        rows=rows,
        paper=published,
        figures=svgs,
        no_importance=no_importance,
        budget=sweep.budget,
        failed=[trial for trial in sweep.trials if trial.state == "FAIL"],
        names=list(dict.fromkeys(name for trial in sweep.trials for name in trial.params)),
        rungs=sorted({steps for trial in sweep.trials for steps in trial.probes}),
        short_name=sweep_figures.short_name,
        states=STATES,
        config_text=json.dumps(to_dict(sweep.config), indent=2),
        colours=css_variables(),
    )


def _headline(sweep: Sweep, tables: Tables | None) -> str:
    best, budget = sweep.best, sweep.budget
    text = _counts(sweep)
    if best is not None:
        text = f"Best of {len(sweep.trials)} trials: {best.task.replace('_', ' ')}, validation macro F1 "
        text += f"{words.number(best.score)}"
        if tables is not None:
            cell = tables.rows[0].scores["macro_f1"]
            text += f", on the test records {words.score((cell.mean, cell.sd))}"
    if budget.whole and budget.stopped:
        text += f"; early stopping saved {budget.stopped / budget.whole:.0%} of the pretraining steps"
    return f"{text}.".replace("%", "\u202f%")


def _counts(sweep: Sweep) -> str:
    states = [trial.state for trial in sweep.trials]
    return (
        f"{len(states)} of {sweep.config.search.trials} trials: {states.count('COMPLETE')} complete, "
        f"{states.count('PRUNED')} stopped early, {states.count('FAIL')} failed"
    )


def _notices(sweep: Sweep) -> list[str]:
    found = [f"{_counts(sweep)}. Trials were compared on validation records alone."]
    steps = sweep.config.steps * sweep.config.pretrain.training.batch_size
    if steps < published.PRETRAINING_FRAMES:
        found.append(
            f"Every pretraining had at most {steps:,} frames, where the paper's had {published.PRETRAINING_FRAMES:,}: "
            "what is best at this budget need not be best at that one."
        )
    return found


def _in_words(name: str, sweep: Sweep) -> str:
    best = sweep.best
    said = f"; best: trial {best.number} with {best.score:.3f}" if best is not None else ""
    titles = {
        "history": "Scores over trials",
        "stopping": "Probes over pretraining steps",
        "cost": "Score against device-seconds",
        "parallel": "Values and score of every trial",
        "importance": "Importance of every value",
    }
    return f"{titles[name]}, {len(sweep.trials)} trials{said}."


def _importance(sweep: Sweep) -> tuple[dict[str, float], str]:
    """(share of the variance by name, empty with the reason why)."""
    try:
        import optuna
    except ImportError:
        return {}, "Importance needs Optuna, which is not installed: pip install 'ecgray[search]'."
    if len(sweep.complete) < FEW or len({trial.score for trial in sweep.complete}) < 2:
        return {}, f"That takes {FEW} complete trials or more, with different scores."
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for trial in sweep.complete:
        distributions = {
            name: optuna.distributions.json_to_distribution(text) for name, text in trial.distributions.items()
        }
        study.add_trial(optuna.trial.create_trial(params=trial.params, distributions=distributions, value=trial.score))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator)), ""


def _trials(sweep: Sweep) -> pd.DataFrame:
    """A row per trial: number, state, score, cost, error, its values, its probes."""
    rows = [
        {
            "number": trial.number,
            "state": trial.state,
            "score": trial.score,
            "cost": trial.cost,
            "error": trial.error,
            **trial.params,
            **{f"probe_{steps}": value for steps, value in sorted(trial.probes.items())},
        }
        for trial in sweep.trials
    ]
    return pd.DataFrame(rows)
