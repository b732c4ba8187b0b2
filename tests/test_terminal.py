"""What stands on a terminal, through a pseudo-terminal of its own: the same words as in a pipe, and lines that fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ecgray.cli import main
from ecgray.recipes import RECIPES

PRETRAIN = ("pretrain", "weimann2021_beat", "--data", "shards", "--out", "run")


Terminal = Callable[..., tuple[int, str]]


@pytest.fixture
def on_terminal(terminal: Terminal) -> Terminal:
    """``on_terminal(words, columns, **environment)``: (exit code, all that ``ecgray words`` writes)."""

    def run(words: Sequence[object], columns: int = 80, **environment: str) -> tuple[int, str]:
        return terminal(lambda: main([str(word) for word in words]), columns, **environment)

    return run


WRONG = {
    ("--training.steps", "four"): "--training.steps must be a whole number, got 'four'; see ecgray pretrain "
    "weimann2021_beat --help.",
    ("--training.stesp", "3"): "The option must be a known name, got '--training.stesp'; did you mean --training.steps",
    ("--precision", "bf16"): "The option must be a known name, got '--precision'; did you mean --training.precision?",
    ("--training.precision", "bf61"): "--training.precision must be one of fp32, bf16, got 'bf61'; did you mean bf16?",
    ("--training.seed", "1", "2"): "ecgray pretrain weimann2021_beat must be given options after its first words, got "
    "'2'; see ecgray pretrain weimann2021_beat --help.",
    ("--training.steps",): "--training.steps must be followed by INT, got less; see",
    ("--model.kernels", "3", "4"): "--model.kernels must be followed by INT INT INT INT, got less; see",
    ("--model.kernels", "3", "4", "5", "x"): "--model.kernels must be INT INT INT INT, got other words; see",
    ("--training.steps", "0"): "training.steps must be at least 1 and at most 1000000000000, got 0; give another whole",
}


@pytest.mark.parametrize("wrong", WRONG, ids=" ".join)
def test_a_wrong_word_is_one_line(wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PRETRAIN, *wrong]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ecgray: {WRONG[wrong]}")


def test_a_missing_word_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "weimann2021_beat"]) == 2
    said = "ecgray: ecgray pretrain weimann2021_beat must be given --out, got none; see"
    assert capsys.readouterr().err.startswith(said)
    assert main(["evaluate", "--data", "set"]) == 2
    assert capsys.readouterr().err.startswith("ecgray: ecgray evaluate must be given RUN and --out, got none; see")
    assert main(["synthesise", "labeled", "folder"]) == 2
    said = "ecgray: KIND must be one of ambulatory, labelled, got 'labeled'; did you mean labelled?\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("columns", [60, 200])
@pytest.mark.parametrize(
    "environment",
    [{}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"TERM": "dumb"}],
    ids=["plain", "NO_COLOR", "FORCE_COLOR", "dumb"],
)
def test_a_wrong_word_is_the_same_on_a_terminal_and_in_a_pipe(
    columns: int, environment: dict[str, str], on_terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (("--training.steps", "four"), ("--training.stesp", "3")):
        assert main([*PRETRAIN, *wrong]) == 2
        assert on_terminal([*PRETRAIN, *wrong], columns, **environment) == (2, capsys.readouterr().err)


VERBS = [
    ("synthesise",),
    ("ingest", "folder"),
    ("pretrain", "weimann2021_future"),
    ("finetune", "weimann2021_cinc2017"),
    ("sweep", "weimann2021_pretraining"),
    ("recipes",),
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_is_for_people(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*verb, "--help"])
    said = capsys.readouterr().out
    assert "``" not in said or verb[0] == "ingest"  # a database is described by its docstring
    for noise in ("None", "[STR", "STR", "(default: )", "(default: '')", "(default: False)", "[[", "\x1b"):
        assert noise not in said, noise
    assert all(text.count("(default") <= 1 for text in re.split(r"--[a-z]", said))


def test_help_fits_the_terminal_and_heeds_no_color(on_terminal: Terminal) -> None:
    words = ["finetune", "weimann2021_cinc2017", "--help"]
    for columns in (80, 200):
        code, said = on_terminal(words, columns, NO_COLOR="1")
        assert code == 0 and "\x1b" not in said and "--protocol.monitor {train_accuracy,val_loss}" in said
        assert "data options" in said and max(map(len, said.splitlines())) <= columns
    assert "\x1b[" in on_terminal(words)[1]


@pytest.mark.parametrize(
    "words", [["recipes"], ["recipes", "--scores"], ["databases"], ["tasks"], ["spaces"], ["models"]], ids=" ".join
)
def test_lists_fit_the_terminal(words: list[str], on_terminal: Terminal) -> None:
    code, said = on_terminal(words)
    assert code == 0 and "\x1b" not in said and max(map(len, said.splitlines())) <= 80


def test_recipes_a_line_each_and_by_paper_table_and_stage(
    on_terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed(*words: str) -> list[str]:
        assert main(["recipes", *words]) == 0
        return capsys.readouterr().out.splitlines()[1:]

    assert [line.split()[0] for line in listed()] == list(RECIPES)
    assert len(on_terminal(["recipes"])[1].splitlines()) == len(RECIPES) + 1
    of_table = [name for name, r in RECIPES.items() if r.table == "Table 3" and r.stage == "finetune"]
    asked = ("--paper", "weimann2021", "--table", "3", "--stage", "finetune")
    assert [line.split()[0] for line in listed(*asked)] == of_table
    assert all("figure3" in line and "Figure 3" in line for line in listed("--table", "figure3"))
    assert "macro_f1 0.779 +- 0.014" in listed("--scores", "--table", "1")[0]
    assert main(["recipes", "--table", "3", "--json"]) == 0
    assert {row["table"] for row in json.loads(capsys.readouterr().out)} == {"Table 3"}


def test_one_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "weimann2021_table1_beat_512"]) == 0
    said = capsys.readouterr().out
    assert "macro_f1 0.769 +- 0.011, f1_N 0.911 +- 0.010" in said
    assert "ecgray finetune weimann2021_table1_beat_512 --data SHARDS --pretrained RUN_OF_weimann2021_beat_512" in said
    for name, hint in {"weimann2021_bet": "did you mean weimann2021_beat?", "xyz": "see ecgray recipes."}.items():
        assert main(["recipes", name]) == 2
        assert capsys.readouterr().err == f"ecgray: The recipe must be a known name, got '{name}'; {hint}\n"
    assert main(["pretrain"]) == 2
    assert capsys.readouterr().err.endswith("got none; 'ecgray recipes --stage pretrain' lists them.\n")
    assert main(["recipes", "--table", "3", "--stage", "pretrain"]) == 2
    assert "leave out one of them" in capsys.readouterr().err


def test_the_words_before_a_name_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["finetune", "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "usage: ecgray finetune RECIPE [OPTIONS]" in said and "'ecgray recipes --stage finetune'" in said
