"""The page: tables, figures and examples set into ``page.html``, everything inline."""

from __future__ import annotations

import json
from collections.abc import Sequence

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from ecgray.config import to_dict
from ecgray.recipes import published
from ecgray.report import figures, settings, words
from ecgray.report.colours import Look, css_variables
from ecgray.report.examples import SHOWN_S, Example, strip_svg
from ecgray.report.tables import Row, Tables


def page(
    tables: Tables,
    looks: Sequence[Look],
    curves: Figure | None,
    strip: Figure,
    examples: Sequence[Example],
    no_examples: str,
) -> str:
    """The HTML of the whole report."""
    rows = tables.rows
    return template("page.html").render(
        words=words,
        tables=tables,
        rows=list(zip(rows, looks, strict=True)),
        databases=", ".join(sorted({name for row in rows for name in row.run.scored["database"].unique()})),
        colours=css_variables(),
        curves="" if curves is None else Markup(figures.as_svg(curves, "curves", _curves_in_words(rows))),
        strip=Markup(figures.as_svg(strip, "seeds", _seeds_in_words(rows))),
        examples=[(example, Markup(strip_svg(example, i))) for i, example in enumerate(examples)],
        no_examples=no_examples,
        shown_s=SHOWN_S,
        shares=_shares,
        paper=published,
        between=settings.between_runs([row.run for row in rows]) if len(rows) > 1 else [],
        config_text=lambda config: json.dumps(to_dict(config), indent=2),
        reduced=any(row.caveats for row in rows),
        zip=zip,
    )


def template(name: str) -> jinja2.Template:
    """A page of this package; what it asks for and is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ecgray.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def _shares(row: Row) -> list[list[tuple[int, float]]]:
    """(count, share of the true class) of every cell of the confusion matrix."""
    totals = np.maximum(row.confusion.sum(1), 1)
    return [
        [(int(count), float(count / total)) for count in counts]
        for counts, total in zip(row.confusion, totals, strict=True)
    ]


def _curves_in_words(rows: Sequence[Row]) -> str:
    return "Validation macro F1 per epoch. " + "; ".join(
        figures.curve_summary(row) for row in rows if not row.run.history.empty
    )


def _seeds_in_words(rows: Sequence[Row]) -> str:
    said = []
    for row in rows:
        values = row.scores["macro_f1"].values
        said.append(f"{row.label}: {words.cell(row.scores['macro_f1'])}, {min(values):.3f} to {max(values):.3f}")
    return "Macro F1 of every seed. " + "; ".join(said)
