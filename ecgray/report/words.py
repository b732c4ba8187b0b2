"""Numbers and names as they are printed, the same in page and Markdown."""

from __future__ import annotations

import math
import re

from ecgray.recipes.published import Score
from ecgray.report.tables import CLASS_WORDS, Cell, Row, Tables

SCORE_WORDS = {"macro_f1": "Macro F1", "official_f1": "Official F1"}
DASH = "\u2013"


def score_word(name: str) -> str:
    """Heading of a score's column: "F1 AF" for f1_A."""
    label = name.removeprefix("f1_")
    return SCORE_WORDS.get(name, f"F1 {CLASS_WORDS.get(label, label)}")


def class_word(name: str) -> str:
    return f"{name} ({CLASS_WORDS[name]})" if name in CLASS_WORDS else name


def plain_class(name: str) -> str:
    """ "normal" for N; other databases' classes as they are."""
    return CLASS_WORDS.get(name, name)


def number(value: float, digits: int = 3) -> str:
    """.779, as the paper prints it; a dash for NaN."""
    if math.isnan(value):
        return DASH
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")


def cell(value: Cell | None) -> str:
    return DASH if value is None else score((value.mean, value.sd))


def score(value: Score | None) -> str:
    """.779 ± .014; the mean alone where there is no sd."""
    if value is None:
        return DASH
    return number(value[0]) + ("" if math.isnan(value[1]) else f"\u2009±\u2009{number(value[1])}")


def interval(value: Cell) -> str:
    return DASH if math.isnan(value.low) else f"{number(value.low)} to {number(value.high)}"


def percent(value: float) -> str:
    """+6.6 %."""
    return DASH if math.isnan(value) else f"{value:+.1%}".replace("%", "\u202f%").replace("-", "\u2212")


def signed(value: float) -> str:
    return DASH if math.isnan(value) else ("+" if value >= 0 else "\u2212") + number(abs(value))


def p_value(value: float) -> str:
    return DASH if math.isnan(value) else "< .001" if value < 0.001 else "1" if value > 0.9995 else number(value)


def source(row: Row) -> str:
    return "no published row" if row.recipe is None else f"{row.recipe.paper}, {row.recipe.table}: {row.recipe.row}"


def headline(tables: Tables) -> str:
    """The report in one sentence, with what its design cannot tell."""
    best = tables.best
    found = best.scores["macro_f1"]
    what = "validation" if best.run.split == "val" else "test"
    start = (
        "Best without pretraining" if best.run.config.pretrained is None else f"Best after pretraining ({best.label})"
    )
    text = f"{start}: {what} macro F1 {score((found.mean, found.sd))} over {_seeds(len(found.values))}"
    for comparison in tables.comparisons:
        for row in comparison.table.to_dict("records"):
            if row["run"] == best.label:
                text += f", {percent(row['relative_improvement'])} against none"
                text += _certainty(row["t_holm"])
    return f"{text}."


def _certainty(p: float) -> str:
    if math.isnan(p):
        return "; one split cannot tell that from chance"
    said = p_value(p) if p < 0.001 else f"= {p_value(p)}"
    return f" (p {said})" if p < 0.05 else f", which these splits cannot tell from chance (p {said})"


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def notices(rows: list[Row]) -> list[str]:
    """What holds for the numbers of this page as a whole."""
    found = []
    if any(row.run.split == "test" and row.test_set for row in rows):
        found.append(
            "The test records are not the paper's. Scores on another set, or on a part of CinC 2017, cannot be set "
            "against the published numbers; only the runs here can be compared with one another."
        )
    elif any(row.run.split == "test" for row in rows):
        found.append(
            "The test records are a fifth of CinC 2017, stratified by class, drawn anew: which ones the paper tested "
            "on is not published."
        )
    if any(row.budget for row in rows):
        found.append("Runs marked as reduced had a smaller budget than the published ones.")
    return found
