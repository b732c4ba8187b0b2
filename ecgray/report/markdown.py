"""The report as Markdown: the same tables, for a repository or a mail."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ecgray.recipes.published import RUNS
from ecgray.report import words
from ecgray.report.tables import Comparisons, Row, Tables


def markdown(tables: Tables, images: Sequence[tuple[str, str]]) -> str:
    """images: (title, file name) of figures to show."""
    parts = ["# Finetuning report", words.headline(tables), *words.notices(tables), _scores(tables)]
    parts += [f"- **{row.label}**. {_caveats(row)}" for row in tables.rows if row.caveats]
    parts += [_comparison(comparison) for comparison in tables.comparisons]
    if tables.comparisons and tables.apart:
        parts.append(words.apart(tables))
    parts += [f"![{_plain(title)}]({name})" for title, name in images]
    parts.append("## Where the numbers come from")
    parts.append(
        _table(
            ["Run", "Recipe", "Folder", "Config hash", "Manifest hashes", "Git commit"],
            [
                [
                    row.label,
                    row.run.config.recipe,
                    f"`{row.run.evaluation or row.run.folder}`",
                    row.run.config_hash,
                    " ".join(row.run.manifest_hashes),
                    str(row.run.environment.get("git_commit") or words.DASH),
                ]
                for row in tables.rows
            ],
        )
    )
    return "\n\n".join(parts) + "\n"


def _plain(title: str) -> str:
    """With brackets that are none of Markdown's."""
    return re.sub(r"([\[\]])", r"\\\1", title)


def _caveats(row: Row) -> str:
    return " ".join(f"{heading}: {what}." for heading, what in words.caveats(row))


def _scores(tables: Tables) -> str:
    names = tables.score_names
    lines = []
    for row in tables.rows:
        found = row.scores["macro_f1"]
        lines.append(
            [
                f"**{row.label}**",
                str(row.run.tested),
                *(words.cell(row.scores.get(name)) for name in names),
                words.interval(found),
                words.percent(row.improvement),
                str(len(found.values)),
            ]
        )
        if row.published:
            published = [words.score(row.published.get(name)) for name in names]
            lines.append(
                [words.source(row), "", *published, words.DASH, words.percent(row.published_improvement), str(RUNS)]
            )
    columns = ["Run", "Scored on", *map(words.score_word, names), "95 % interval", "Against none", "Seeds"]
    return _table(columns, lines)


def _comparison(found: Comparisons) -> str:
    heading = f"## Against {found.baseline}, over shared splits"
    lines = [
        [
            row["run"],
            str(row["seeds"]),
            words.signed(row["difference"]),
            words.p_value(row["t_holm"]),
            words.p_value(row["wilcoxon_holm"]),
            words.detectable(row),
        ]
        for row in found.table.to_dict("records")
    ]
    header = ["Run", "Splits", "Difference", "p (corrected t, Holm)", "p (Wilcoxon, Holm)", "Smallest detectable"]
    said = [sentence for row in found.table.to_dict("records") if (sentence := words.undetectable(row))]
    return "\n\n".join([heading, _table(header, lines), *said])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
