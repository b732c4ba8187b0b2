"""Numbers and names as they are printed, the same in page and Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ecgray.recipes.published import Score
from ecgray.report.tables import CLASS_WORDS, Cell, Row, Tables, best_of

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


def p_relation(value: float) -> str:
    """< .001; = .042; unknown, of a single split."""
    return "unknown" if math.isnan(value) else p_value(value) if value < 0.001 else f"= {p_value(value)}"


def source(row: Row) -> str:
    return "no published row" if row.recipe is None else f"{row.recipe.paper}, {row.recipe.table}: {row.recipe.row}"


def detectable(comparison: Mapping[str, Any]) -> str:
    """The smallest difference that a row of ``compare_with_baseline`` finds, as far as a macro F1 can have it."""
    value = comparison["detectable"]
    if math.isinf(value):
        return "no difference"
    return "no gain" if value > 1 - comparison["baseline"] else number(value)


def undetectable(comparison: Mapping[str, Any]) -> str:
    """A sentence where a difference cannot be found at all, or none upwards; empty where it can."""
    found = detectable(comparison)
    if not found.startswith("no "):
        return ""
    why = (
        f"it would have to lift the macro F1 of {number(comparison['baseline'])} above 1"
        if found == "no gain"
        else "it would have to be larger than any that macro F1s can have, which lie between 0 and 1"
    )
    return f"These splits cannot detect any {found.removeprefix('no ')} for “{comparison['run']}”: {why}."


SAID_EACH = 3
"""Sets of test records up to which the headline has a sentence for each."""


def headline(tables: Tables) -> str:
    """The report in a sentence for each set of test records, with what its design cannot tell."""
    ranked = tables.ranked
    if len(ranked) > SAID_EACH:
        return f"{len(tables.rows)} runs on {len(ranked)} different sets of records: none of them is the best of all."
    return " ".join(_best_in_words(tables, same) for same in ranked)


def _best_in_words(tables: Tables, same: Sequence[Row]) -> str:
    best = best_of(same)
    found, name = best.scores["macro_f1"], re.sub(r"^none\b", "without pretraining", best.label)
    text = f"Best of {len(same)} runs: {name}" if len(same) > 1 else f"{name[0].upper()}{name[1:]}"
    kind = "validation" if best.run.split == "val" else "test"
    text += f"{',' if len(same) > 1 else ':'} {kind} macro F1 {cell(found)} over {_seeds(len(found.values))}"
    if len(tables.ranked) == 1:
        text += f" on {best.run.tested}"
    for comparison in tables.comparisons:
        for row in comparison.table.to_dict("records"):
            if row["run"] == best.label:
                text += f", {percent(row['relative_improvement'])} against none"
                text += _certainty(row["t_holm"])
    return f"{text}."


def _certainty(p: float) -> str:
    if math.isnan(p):
        return "; one split cannot tell that from chance"
    said = f"p {p_relation(p)}"
    return f" ({said})" if p < 0.05 else f", which these splits cannot tell from chance ({said})"


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def caveats(row: Row) -> list[tuple[str, str]]:
    """(heading, what) of how a run is not its published row, in sentences' order."""
    said = {
        "Reduced": ", ".join(row.budget),
        "Other test set": row.test_set or "",
        "Other settings": ", ".join(row.other),
        "Absent": row.absent or "",
    }
    return [(heading, what) for heading, what in said.items() if what]


def apart(tables: Tables) -> str:
    return f"Not compared, since no run without pretraining shares their records and settings: {_listed(tables.apart)}."


def notices(tables: Tables) -> list[str]:
    """What holds for the numbers of this page as a whole."""
    tests = [row for row in tables.rows if row.run.split == "test"]
    others = [row for row in tests if row.test_set]
    several, found = len(tables.ranked) > 1, []
    if several:
        found.append(
            f"The runs were scored on {len(tables.ranked)} different sets of records. Only runs on the same records "
            "are ranked and compared; the others stand side by side."
        )
    if others:
        whose = "" if len(others) == len(tests) else f" of {_listed([row.label for row in others])}"
        alone = "" if several or len(tables.rows) == 1 else "; only the runs here can be compared with one another"
        found.append(
            f"The test records{whose} are not the paper's. Scores on another set, or on a part of CinC 2017, cannot be "
            f"set against the published numbers{alone}."
        )
    if len(others) < len(tests):
        found.append(
            f"The test records{_of_the_rest(tests, others)} are a fifth of CinC 2017, stratified by class, drawn anew: "
            "which ones the paper tested on is not published."
        )
    if any(row.budget for row in tables.rows):
        which = "This run" if len(tables.rows) == 1 else "Each run that says “Reduced”"
        found.append(f"{which} had a smaller budget than the published ones.")
    return found


def _of_the_rest(tests: Sequence[Row], others: Sequence[Row]) -> str:
    return f" of {_listed([row.label for row in tests if not row.test_set])}" if others else ""


def _listed(names: Sequence[str]) -> str:
    """A; A and B; A, B and C, each in quotation marks."""
    quoted = [f"“{name}”" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
