"""A sample of benchmarks/continuation.py: ranks of a group are killed, and the run that goes on is equal to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "continuation.py"


@pytest.mark.parametrize(
    ("task", "workers", "place"), [("rhythm", 2, "before the marker"), ("heart_rate", 3, "validation")]
)
def test_killed_ranks_go_on_to_the_bit(task: str, workers: int, place: str, tmp_path: Path) -> None:
    chosen = ["--tasks", task, "--workers", str(workers), "--places", place, "--out", str(tmp_path)]
    child = subprocess.run([sys.executable, str(SCRIPT), *chosen], capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stdout + child.stderr
    rows = json.loads((tmp_path / "continuation.json").read_text())
    assert [(row["dies"], row["result"]) for row in rows] == [("one worker", "equal"), ("all at once", "equal")]
