"""--workers at the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecgray.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("two", "must be a number or FEWEST:MOST, got two"),
        ("1:2:3", "must be a number or FEWEST:MOST, got 1:2:3"),
        ("4:1", "1 or more as the fewest and no more than the most, got 4:1"),
        ("0:2", "1 or more as the fewest"),
        ("1:9", "got 9 workers and sampling.lanes=8"),
    ],
)
def test_what_is_no_number_of_workers_is_refused_in_one_line(
    words: str, said: str, small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(small_archive), "--out", str(tmp_path / "run"), "--workers", words]
    fields = ["--sampling.frame-size", "256", "--sampling.val-fraction", "0.25"]
    assert main(["pretrain", "weimann2021_beat", *given, *fields]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()
