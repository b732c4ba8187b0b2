"""The report from runs in the stored format: its numbers against scikit-learn, its words, its files."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from ecgray.errors import EcgrayError
from ecgray.models import MODELS
from ecgray.recipes import RECIPES, published
from ecgray.report import figures
from ecgray.report.colours import looks
from ecgray.report.read_runs import Pretraining, Run, read_run
from ecgray.report.report import write_report
from ecgray.report.settings import find_row
from ecgray.report.tables import make_tables
from ecgray.report.words import detectable, undetectable

TASKS = {"none": None, "beat": "weimann2021_beat", "rhythm": "weimann2021_rhythm"}


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, labelled_shards: Path, shard_records: pd.DataFrame, fake: Any
) -> list[Path]:
    """Three runs on synthetic records whose shard set exists."""
    root = tmp_path_factory.mktemp("runs")
    return [
        fake(
            root / name,
            pretraining=start,
            records=shard_records,
            shards=str(labelled_shards),
            skill=0.6 + 0.08 * i,
            seconds=20.0,
        )
        for i, (name, start) in enumerate(TASKS.items())
    ]


@pytest.fixture(scope="module")
def report(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(runs, tmp_path_factory.mktemp("report") / "out").parent


def test_scores_are_those_of_scikit_learn(runs: list[Path]) -> None:
    for row in make_tables([read_run(run) for run in runs]).rows:
        stored = pd.read_parquet(row.run.folder / "predictions.parquet").query("split == 'test'")
        classes = ["N", "A", "O", "~"]
        for index, (_, part) in enumerate(stored.groupby("seed")):
            truth, said = part["label"], part["predicted"]
            each = f1_score(truth, said, labels=classes, average=None, zero_division=0)
            assert row.scores["macro_f1"].values[index] == pytest.approx(each.mean())
            assert row.scores["official_f1"].values[index] == pytest.approx(each[:3].mean())
            assert [row.scores[f"f1_{name}"].values[index] for name in classes] == pytest.approx(list(each))
        values = row.scores["macro_f1"].values
        assert row.scores["macro_f1"].mean == pytest.approx(np.mean(values))
        assert row.scores["macro_f1"].sd == pytest.approx(np.std(values, ddof=1))
        assert np.array_equal(row.confusion, confusion_matrix(stored["label"], stored["predicted"], labels=classes))


def test_csv_has_a_row_per_run_seed_and_score(report: Path, runs: list[Path]) -> None:
    table = pd.read_csv(report / "scores.csv")
    assert not table.duplicated(["run", "seed", "score"]).any()
    assert table.groupby(["run", "seed"]).size().nunique() == 1
    assert set(table["run"]) == set(TASKS) and set(table["seed"]) == {0, 1, 2}
    stored = pd.read_parquet(runs[1] / "predictions.parquet").query("split == 'test' and seed == 2")
    value = table.query("run == 'beat' and seed == 2 and score == 'macro_f1'")["value"].item()
    assert value == pytest.approx(
        f1_score(stored["label"], stored["predicted"], labels=["N", "A", "O", "~"], average="macro", zero_division=0)
    )
    assert table.query("run == 'beat' and score == 'f1_A'")["published_mean"].unique() == [0.777]


def test_numbers_come_from_predictions_alone(tmp_path: Path, fake: Any) -> None:
    run = fake(tmp_path / "run", records=200)
    before = make_tables([read_run(run)]).rows[0].scores["macro_f1"]
    (run / "scores.json").write_text(json.dumps({"macro_f1": 1.0}))
    assert make_tables([read_run(run)]).rows[0].scores["macro_f1"] == before


def test_files(report: Path) -> None:
    names = {path.name for path in report.iterdir()}
    assert {"report.html", "report.md", "scores.csv", "figure3.png", "seeds.png"} <= names
    assert len([name for name in names if name.startswith("confusion-")]) == 3
    for path in report.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


class Page(HTMLParser):
    """What a page holds: attributes per tag, ids, and whether tags close in order."""

    VOID = ("meta", "br", "img", "link", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_one_accessible_file_without_network(report: Path) -> None:
    text = (report / "report.html").read_text()
    page = Page(text)
    assert not page.open
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert not re.match(r"(https?:)?//", attributes.get(name) or ""), (tag, attributes)
        assert tag not in ("script", "link", "iframe", "object")
        if tag == "th":
            assert attributes.get("scope") in ("row", "col")
        if tag == "svg":
            assert attributes.get("role") == "img" and (
                attributes.get("aria-label") or attributes.get("aria-labelledby")
            )
    assert "@import" not in text and "url(http" not in text
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert "#1c2126" not in text.split("</style>")[1], "figures take their colours from the page"


def test_page_shows_published_beside_ours_and_says_what_is_reduced(report: Path) -> None:
    for text in (Page((report / "report.html").read_text()).text, (report / "report.md").read_text()):
        assert ".779\u2009±\u2009.014" in text and ".731\u2009±\u2009.019" in text
        assert "3 of 10 seeds" in text and "20 of 60 s" in text and "30 of 200 epochs" in text
        assert "pretrained on 12,800 of 42.8 million frames" in text
        assert "not of cinc2017" in text and "The test records are not the paper's" in text
    page = Page((report / "report.html").read_text()).text
    assert "Recordings" in page and "recognised" in page and "corrected after Holm for 2 comparisons" in page


def test_report_is_the_same_when_made_again(report: Path, runs: list[Path], tmp_path: Path) -> None:
    write_report(runs, tmp_path / "again")
    for name in ("report.html", "report.md", "scores.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (report / name).read_bytes(), name


def test_figures_of_an_earlier_report_go_and_other_files_stay(tmp_path: Path, fake: Any) -> None:
    runs = [fake(tmp_path / name, records=200, seeds=1, epochs=2) for name in ("a", "b")]
    out = tmp_path / "out"
    write_report(runs, out)
    (out / "mine.png").touch()
    (runs[0] / "seeds" / "seed-00" / "metrics.jsonl").write_text("")
    write_report(runs[:1], out)
    names = {path.name for path in out.iterdir()}
    pictures = {name for name in names if name.endswith(".png")}
    assert pictures == {"seeds.png", "mine.png", *re.findall(r"\((.*?\.png)\)", (out / "report.md").read_text())}
    assert len(pictures) == 3


def test_full_budget_on_all_records_has_no_caveat_but_the_split(tmp_path: Path, fake: Any) -> None:
    run = fake(tmp_path / "run", records=published.RECORDS, seeds=10, epochs=200)
    row = make_tables([read_run(run)]).rows[0]
    assert row.caveats == [] and row.recipe is RECIPES["weimann2021_table1_none"]
    text = (write_report([run], tmp_path / "out")).read_text()
    assert "drawn anew" in text and "Reduced:" not in text
    assert "signals of none cannot be shown" in text.lower()


def test_the_best_checkpoint_of_a_whole_pretraining_has_no_caveat_wherever_it_lies(tmp_path: Path, fake: Any) -> None:
    options = {"records": 300, "pretraining": "weimann2021_beat", "chosen_at": 1_337_600}
    run = fake(tmp_path / "run", steps=1_200_000, **options)
    assert not any("frames" in words for words in make_tables([read_run(run)]).rows[0].caveats)
    assert (
        "checkpoint of step 1,200,000, the best of 1,337,600 steps:"
        in write_report([run], tmp_path / "out").read_text()
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"records": 600}, "600 of 8,528 records"),
        ({"seconds": 20.0}, "20 of 60 s"),
        ({"epochs": 12}, "12 of 200 epochs"),
        ({"seeds": 3}, "3 of 10 seeds"),
        ({"seeds": 4, "finished": 2}, "2 of 10 seeds"),
        ({"pretraining": "weimann2021_beat", "steps": 50}, "pretrained on 1,600 of 42.8 million frames"),
        (
            {"pretraining": "weimann2021_beat", "steps": 50, "chosen_at": 75},
            "pretrained on 2,400 of 42.8 million frames",
        ),
        ({"pretraining": "weimann2021_beat", "changes": {"freeze_blocks": 2}}, "freeze_blocks 2 instead of 0"),
        ({"changes": {"model": replace(MODELS["resnet18"], width=8)}}, "model.width 8 instead of 64"),  # type: ignore[type-var]
    ],
)
def test_every_reduction_is_said(tmp_path: Path, fake: Any, options: dict[str, Any], words: str) -> None:
    options = {"records": 300} | options
    run = fake(tmp_path / "run", **options)
    assert words in make_tables([read_run(run)]).rows[0].caveats


@pytest.mark.parametrize(
    ("recipe", "pretraining", "row"),
    [
        ("weimann2021_cinc2017", None, "weimann2021_table1_none"),
        ("weimann2021_cinc2017", "weimann2021_beat", "weimann2021_cinc2017"),
        ("weimann2021_cinc2017", "weimann2021_future", "weimann2021_table1_future_16_8_8_512"),
        ("weimann2021_cinc2017", "weimann2021_rhythm_512", "weimann2021_table1_rhythm_512"),
        ("weimann2021_table1_beat_2048", None, "weimann2021_table1_none"),
        ("weimann2021_table2_none_25", None, "weimann2021_table2_none_25"),
        ("weimann2021_table3_beat_128hz", "weimann2021_beat", "weimann2021_table3_beat_128hz"),
        ("weimann2021_table4_rhythm_resnet34", "weimann2021_rhythm_resnet34", "weimann2021_table4_rhythm_resnet34"),
        ("weimann2021_table4_future_resnet50", "weimann2021_future_resnet50", "weimann2021_table4_future_resnet50"),
    ],
)
def test_a_run_stands_beside_the_row_of_what_it_really_started_from(
    tmp_path: Path, fake: Any, recipe: str, pretraining: str | None, row: str
) -> None:
    run = fake(tmp_path / "run", recipe=recipe, pretraining=pretraining, records=300, seeds=2, epochs=3)
    found = make_tables([read_run(run)]).rows[0].recipe
    assert found is not None and found.name == row


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.stage == "finetune"])
def test_every_recipe_used_as_it_is_stands_beside_its_own_row(name: str) -> None:
    recipe, nothing = RECIPES[name], pd.DataFrame({"database": [], "record": [], "split": []})
    before: Any = None if recipe.pretrained_by is None else RECIPES[recipe.pretrained_by].make()
    config: Any = replace(recipe.make(), pretrained=None if before is None else "/run")
    start = Pretraining(folder="/run", config=before, step=1, chosen_at=1)
    run = Run(
        folder=Path("/run"),
        config=config,
        environment={},
        predictions=nothing,
        classes=(),
        splits=nothing,
        history=nothing,
        pretraining=None if before is None else start,
    )
    found = find_row(run)
    assert found is not None and found.pretrained_by == recipe.pretrained_by
    # A curve has no number: Table 1 has that of the same run.
    assert found is recipe if recipe.published else found.table == "Table 1"


def test_pretraining_on_another_task_than_its_recipes_has_no_published_row(tmp_path: Path, fake: Any) -> None:
    run = fake(tmp_path / "run", pretraining="weimann2021_beat", records=300, seeds=2, epochs=3)
    stored = tmp_path / "run-pretraining" / "config.json"
    stored.write_text(json.dumps(json.loads(stored.read_text()) | {"task": {"name": "rhythm"}}))
    row = make_tables([read_run(run)]).rows[0]
    assert row.recipe is None and row.label == "rhythm"


def test_lost_pretraining_run_gives_no_published_row(tmp_path: Path, fake: Any) -> None:
    run = fake(tmp_path / "run", pretraining="weimann2021_beat", records=300)
    (tmp_path / "run-pretraining" / "config.json").unlink()
    row = make_tables([read_run(run)]).rows[0]
    assert row.recipe is None and "pretraining run no longer found" in row.caveats
    assert write_report([run], tmp_path / "out").is_file()


def test_runs_on_other_splits_or_settings_are_not_compared(tmp_path: Path, fake: Any) -> None:
    none = fake(tmp_path / "none", records=300)
    same = fake(tmp_path / "beat", records=300, pretraining="weimann2021_beat", skill=0.8)
    other = fake(tmp_path / "short", records=300, pretraining="weimann2021_beat", seconds=10.0)
    tables = make_tables([read_run(run) for run in (none, same, other)])
    assert [row.label for row in tables.rows] == ["none, 60 s", "beat, 60 s", "beat, 10 s"]
    assert len(tables.comparisons) == 1 and len(tables.comparisons[0].table) == 1
    assert tables.apart == [tables.rows[2].label]
    ours = tables.comparisons[0].table.iloc[0]
    means = [tables.rows[i].scores["macro_f1"].mean for i in (0, 1)]
    assert ours["relative_improvement"] == pytest.approx(means[1] / means[0] - 1)
    assert tables.rows[1].published_improvement == pytest.approx(0.779 / 0.731 - 1)
    assert math.isnan(tables.rows[2].improvement)


def test_evaluation_is_reported_as_another_test_set(tmp_path: Path, fake: Any) -> None:
    run = fake(tmp_path / "run", records=300)
    predictions = pd.read_parquet(run / "predictions.parquet").query("split == 'test'").assign(database="other")
    out = tmp_path / "evaluation"
    out.mkdir()
    predictions.to_parquet(out / "predictions.parquet", index=False)
    values = {"run": str(run), "data": "/nowhere/other", "manifest_hashes": ["abc"]}
    (out / "evaluation.json").write_text(json.dumps(values))
    tables = make_tables([read_run(run), read_run(out)])
    assert [row.label for row in tables.rows] == ["none, on cinc2017", "none, on other"]
    assert tables.best is tables.rows[0]
    assert any("records of other, not of cinc2017" in words for words in tables.rows[1].caveats)
    assert tables.rows[1].run.manifest_hashes[-1] == "abc"
    assert write_report([run, out], tmp_path / "out").is_file()


def test_labels_that_count_as_others_are_said(tmp_path: Path, fake: Any) -> None:
    run = fake(tmp_path / "run", records=300)
    folders = [run]
    for name, labels in (("plain", None), ("counted", ["AFIB=A", "NSR=N", "X="])):
        predictions = pd.read_parquet(run / "predictions.parquet").query("split == 'test'").assign(database="other")
        if labels:
            predictions.loc[predictions["label"] == "O", "label"] = "A"
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        predictions.to_parquet(folders[-1] / "predictions.parquet", index=False)
        values = {"run": str(run), "data": "/nowhere/other", "manifest_hashes": ["abc"]}
        (folders[-1] / "evaluation.json").write_text(json.dumps(values | ({"labels": labels} if labels else {})))
    words = "labels AFIB counted as A, NSR counted as N, X left out"
    rows = make_tables([read_run(folder) for folder in folders]).rows
    assert [words in row.caveats for row in rows] == [False, False, True]
    assert rows[1].scored_records != rows[2].scored_records  # the same records, and another truth
    write_report(folders, tmp_path / "out")
    assert words in (tmp_path / "out" / "report.html").read_text()
    assert words in (tmp_path / "out" / "report.md").read_text()

    config = json.loads((run / "config.json").read_text())
    config["data"]["labels"] = ["AFL=A"]
    (run / "config.json").write_text(json.dumps(config))
    rows = make_tables([read_run(folder) for folder in folders[::2]]).rows
    assert "labels AFL counted as A" in rows[0].caveats
    assert not any("data.labels" in caveat for caveat in rows[0].caveats)
    assert {"in its training, labels AFL counted as A", words} <= set(rows[1].caveats)
    (folders[2] / "evaluation.json").write_text(json.dumps(values | {"labels": "AFIB=A"}))
    with pytest.raises(EcgrayError, match="evaluate again"):
        read_run(folders[2])


def test_held_back_fifth_in_a_shard_set_of_its_own_is_the_papers_design(tmp_path: Path, fake: Any) -> None:
    run = fake(tmp_path / "run", records=published.RECORDS, seeds=10, epochs=200)
    config = json.loads((run / "config.json").read_text())
    config["data"]["test_shards"] = "/nowhere/test"
    (run / "config.json").write_text(json.dumps(config))
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | {"records": 6822}))
    assert make_tables([read_run(run)]).rows[0].caveats == []


def test_pretraining_config_that_the_run_kept_is_used_when_the_pretraining_run_is_gone(
    tmp_path: Path, fake: Any
) -> None:
    run = fake(tmp_path / "run", pretraining="weimann2021_beat", records=300)
    kept = json.loads((tmp_path / "run-pretraining" / "config.json").read_text())
    shutil.rmtree(tmp_path / "run-pretraining")
    environment = json.loads((run / "environment.json").read_text())
    environment["pretrained"]["config"] = kept
    (run / "environment.json").write_text(json.dumps(environment))
    row = make_tables([read_run(run)]).rows[0]
    assert row.label == "beat" and row.recipe is not None
    assert "pretrained on 12,800 of 42.8 million frames" in row.caveats


def test_one_seed_has_no_deviation(tmp_path: Path, fake: Any) -> None:
    run = fake(tmp_path / "run", records=300, seeds=1, epochs=2)
    assert math.isnan(make_tables([read_run(run)]).rows[0].scores["macro_f1"].sd)
    assert "one seed" in write_report([run], tmp_path / "out").read_text()


def test_a_class_without_test_records_is_said(tmp_path: Path, fake: Any) -> None:
    run = fake(tmp_path / "run", records=400)
    for path in run.rglob("predictions.parquet"):
        pd.read_parquet(path).query("split != 'test' or label != 'A'").to_parquet(path, index=False)
    page = write_report([run], tmp_path / "out").read_text()
    for text in (page, (tmp_path / "out" / "report.md").read_text()):
        assert "no test record of AF in at least one seed: its F1 is 0 there" in text


def test_run_without_test_records_is_scored_on_validation_and_says_so(tmp_path: Path, fake: Any) -> None:
    run = fake(tmp_path / "run", records=400)
    for path in run.rglob("predictions.parquet"):
        pd.read_parquet(path).query("split == 'val'").to_parquet(path, index=False)
    text = write_report([run], tmp_path / "out").read_text()
    assert "validation macro F1" in text and "the run has no test records" in text


def test_an_evaluation_of_itself_is_refused(tmp_path: Path) -> None:
    values = {"run": str(tmp_path), "data": "", "manifest_hashes": []}
    (tmp_path / "evaluation.json").write_text(json.dumps(values))
    with pytest.raises(EcgrayError, match="needs the run that it is of"):
        read_run(tmp_path)


def test_runs_whose_folders_have_one_name_are_told_apart(tmp_path: Path, fake: Any) -> None:
    runs = [fake(tmp_path / name / "beat", records=300, pretraining="weimann2021_beat") for name in ("a", "b")]
    tables = make_tables([read_run(run) for run in [*runs, fake(tmp_path / "none", records=300)]])
    assert {row.label for row in tables.rows} == {"beat (a/beat)", "beat (b/beat)", "none"}
    assert write_report(runs, tmp_path / "out").is_file()


def test_names_are_escaped(tmp_path: Path, fake: Any) -> None:
    run = fake(tmp_path / "<b>run&", records=300)
    other = fake(tmp_path / "<i>run", records=300)
    text = write_report([run, other], tmp_path / "out").read_text()
    assert "<b>run" not in text and "<i>run" not in text and "&lt;b&gt;run&amp;" in text


def test_bad_input_is_one_clear_line(tmp_path: Path, fake: Any) -> None:
    run = fake(tmp_path / "run", records=300, pretraining="weimann2021_beat")
    unfinished = fake(tmp_path / "unfinished", records=300, finished=0)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[list[Path], Path, str]] = [
        ([], tmp_path / "out", "at least one run"),
        ([tmp_path / "missing"], tmp_path / "out", "no folder"),
        ([tmp_path / "empty"], tmp_path / "out", "config.json"),
        ([tmp_path / "run-pretraining"], tmp_path / "out", "pretraining run"),
        ([unfinished], tmp_path / "out", "finished seeds"),
        ([run, run], tmp_path / "out", "given once"),
        ([run], tmp_path / "file", "folder of its own"),
        ([run], run, "folder of its own"),
    ]
    for folders, out, words in cases:
        with pytest.raises(EcgrayError, match=words) as error:
            write_report(folders, out)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def evaluation_of(run: Path, out: Path, **changes: Any) -> Path:
    """An evaluation of ``run`` on its own test records under another database's name; ``changes``: of its values."""
    predictions = pd.read_parquet(run / "predictions.parquet").query("split == 'test'").assign(database="other")
    out.mkdir()
    predictions.to_parquet(out / "predictions.parquet", index=False)
    values = {"run": str(run), "data": "/nowhere/other", "manifest_hashes": ["abc"]}
    (out / "evaluation.json").write_text(json.dumps(values | changes))
    return out


def texts(out: Path) -> list[str]:
    """Page and Markdown, as they are read."""
    return [" ".join(Page((out / "report.html").read_text()).text.split()), (out / "report.md").read_text()]


def test_runs_on_other_test_records_are_not_ranked(tmp_path: Path, fake: Any) -> None:
    none = fake(tmp_path / "none", records=300)
    beat = fake(tmp_path / "beat", records=300, pretraining="weimann2021_beat", skill=0.65)
    better = fake(tmp_path / "better", records=500, pretraining="weimann2021_beat", skill=0.9)
    write_report([none, beat, better], tmp_path / "out")
    best = max(make_tables([read_run(none), read_run(beat)]).rows, key=lambda row: row.scores["macro_f1"].mean)
    name = "without pretraining" if best.label == "none" else best.label
    for text in texts(tmp_path / "out"):
        assert f"Best of 2 runs: {name}, on 60 records of cinc2017, test macro F1" in text
        assert "Beat, on 100 records of cinc2017: test macro F1" in text and "Best of 3" not in text
        assert "scored on 2 different sets of records. Only runs on the same records are ranked and compared" in text
        assert "only the runs here can be compared" not in text
    table = pd.read_csv(tmp_path / "out" / "scores.csv").drop_duplicates("run").set_index("run")
    assert list(table["test_records"]) == [60, 60, 100] and set(table["test_set"]) == {"cinc2017"}
    tested = list(table["tested"])
    assert tested[0] == tested[1] != tested[2]
    assert list(table.index) == [
        f"{name} records of cinc2017" for name in ("none, on 60", "beat, on 60", "beat, on 100")
    ]


def test_many_test_sets_have_no_best(tmp_path: Path, fake: Any) -> None:
    runs = [fake(tmp_path / str(count), records=count) for count in (200, 300, 400, 500)]
    write_report(runs, tmp_path / "out")
    for text in texts(tmp_path / "out"):
        assert (
            "4 runs on 4 different sets of records: none of them is the best of all." in text and "Best of" not in text
        )


def test_records_of_one_name_with_other_samples_are_another_test(tmp_path: Path, fake: Any) -> None:
    """Two synthetic sets, or folders of two hospitals, may bear the same names."""
    runs = [fake(tmp_path / name, records=300) for name in ("a", "b", "c")]
    splits = pd.read_parquet(runs[1] / "splits.parquet")
    splits["signal_hash"] = "x" + splits["signal_hash"]
    splits.to_parquet(runs[1] / "splits.parquet", index=False)
    tables = make_tables([read_run(run) for run in runs])
    assert [len(same) for same in tables.ranked] == [2, 1]
    assert [row.label for row in tables.rows] == [
        "none, on 60 records of cinc2017, set 1 (a)",
        "none, on 60 records of cinc2017, set 2",
        "none, on 60 records of cinc2017, set 1 (c)",
    ]
    assert tables.comparisons == []


def test_evaluations_on_one_set_are_ranked_however_many_seeds_they_have(tmp_path: Path, fake: Any) -> None:
    none = fake(tmp_path / "none", records=300, seeds=4)
    beat = fake(tmp_path / "beat", records=300, seeds=2, pretraining="weimann2021_beat", skill=0.8)
    places = [evaluation_of(run, tmp_path / f"{run.name}-on") for run in (none, beat)]
    tables = make_tables([read_run(place) for place in places])
    assert len(tables.ranked) == 1 and len(tables.comparisons) == 1
    again = [evaluation_of(run, tmp_path / f"{run.name}-again", signals=run.name) for run in (none, beat)]
    assert len(make_tables([read_run(place) for place in again]).ranked) == 2


def test_a_reduced_run_counts_its_own_records(tmp_path: Path, fake: Any) -> None:
    """Not those of what it is evaluated on, nor those of a test set of its own."""
    run, more = fake(tmp_path / "run", records=300), fake(tmp_path / "more", records=900)
    evaluated = evaluation_of(run, tmp_path / "evaluated")
    predictions = pd.read_parquet(more / "predictions.parquet").query("split == 'test'")
    predictions["record"] = "B" + predictions["record"]
    predictions.to_parquet(evaluated / "predictions.parquet", index=False)
    row = make_tables([read_run(evaluated)]).rows[0]
    assert "300 of 8,528 records" in row.budget and str(row.run.tested) == "180 records of cinc2017"
    config = json.loads((run / "config.json").read_text())
    config["data"]["test_shards"] = "/nowhere/test"
    (run / "config.json").write_text(json.dumps(config))
    budget = make_tables([read_run(run)]).rows[0].budget
    assert "300 of 6,822 records to train and validate on" in budget


def test_no_difference_is_called_detectable_that_no_score_can_have(tmp_path: Path, fake: Any) -> None:
    none = fake(tmp_path / "none", records=300, seeds=2, epochs=3, skill=0.9)
    beat = fake(tmp_path / "beat", records=300, seeds=2, epochs=3, pretraining="weimann2021_beat", skill=0.5)
    for path, right in (
        (none / "seeds/seed-00", True),
        (beat / "seeds/seed-01", True),
        (beat / "seeds/seed-00", False),
    ):
        table = pd.read_parquet(path / "predictions.parquet")
        table["predicted"] = table["label"] if right else "~"
        table.to_parquet(path / "predictions.parquet", index=False)
    write_report([none, beat], tmp_path / "out")
    for text in texts(tmp_path / "out"):
        assert "no difference" in text
        assert "These splits cannot detect any difference for “beat”" in text and "between 0 and 1" in text


@pytest.mark.parametrize(
    ("baseline", "effect", "said"), [(0.3, 0.2, ".200"), (0.9, 0.2, "no gain"), (0.9, math.inf, "no difference")]
)
def test_what_a_design_detects_in_words(baseline: float, effect: float, said: str) -> None:
    row = {"run": "beat", "baseline": baseline, "detectable": effect}
    assert detectable(row) == said
    assert ("cannot detect any" in undetectable(row)) == (said != ".200")
    assert ("above 1" in undetectable(row)) == (said == "no gain")


def test_one_run_is_no_best_of_all_and_names_its_test_set(tmp_path: Path, fake: Any) -> None:
    write_report([fake(tmp_path / "run", records=300, seeds=1, epochs=2)], tmp_path / "out")
    for text in texts(tmp_path / "out"):
        assert re.search(r"Without pretraining: test macro F1 \.\d{3} over one seed on 60 records of cinc2017\.", text)
        assert "Best" not in text and "one another" not in text and text.count("60 records of cinc2017") >= 2


def test_no_brackets_within_brackets(tmp_path: Path, fake: Any) -> None:
    names = ("a/[x]", "b/[x]", "c/" + "very_long_" * 20)
    runs = [fake(tmp_path / name, records=300, pretraining="weimann2021_beat") for name in names]
    write_report([*runs, fake(tmp_path / "none", records=300)], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text().split("</style>")[1]
    for text in (re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL), (tmp_path / "out" / "report.md").read_text()):
        assert not re.search(r"\(\(|\)\)|\[\[|\]\]|\([^()]*\([^()]*\)", re.sub(r"<[^>]*>", "", text))


def test_names_of_any_length_are_whole_in_the_figures(tmp_path: Path, fake: Any) -> None:
    names = [f"{letter}_rather_long_name_of_a_folder_on_the_cluster_of_2026/run" for letter in "abcdefgh"]
    runs = [fake(tmp_path / name, records=300, seeds=2, epochs=3) for name in names]
    for count in (2, 8):
        rows = make_tables([read_run(run) for run in runs[:count]]).rows
        for figure in (figures.validation_curves(rows, looks(rows)), figures.seed_strip(rows, looks(rows))):
            assert figure is not None
            figure.draw_without_rendering()
            (axes,) = figure.axes
            legends = [*figure.legends, *filter(None, [axes.get_legend()])]
            shown = [text for legend in legends for text in legend.get_texts()] or axes.get_yticklabels()
            assert len(shown) == count
            for text in shown:
                box = text.get_window_extent()
                assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 + 1, text.get_text()
            tall = sorted((text.get_window_extent() for text in shown), key=lambda box: box.y0)
            assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(tall)), "names overlap"
