"""What the benchmarks share: things measured in turn, bars, tables, and the JSON that is kept.

Imports no more than the standard library before something is shown, so that it runs in any environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
RESULTS = Path(__file__).parent / "results"


def in_turn(methods: Mapping[str, Callable[[], Result]], repeats: int, *, warm: bool = True) -> dict[str, list[Result]]:
    """Every method once, and again, ``repeats`` times over; with ``warm``, one round before that fills caches and is
    left out."""
    runs: dict[str, list[Result]] = {name: [] for name in methods}
    for turn in range(-1 if warm else 0, repeats):
        for name, method in methods.items():
            result = method()
            if turn >= 0:
                runs[name].append(result)
    return runs


@dataclass(frozen=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float
    repeats: int

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        values = list(values)
        return Spread(statistics.median(values), min(values), max(values), len(values))

    @staticmethod
    def ratio(values: Sequence[float], others: Sequence[float]) -> Spread:
        """Of the quotients round by round, so that a machine that is slow for a while slows both."""
        return Spread.of(a / b for a, b in zip(values, others, strict=True))

    def show(self, form: str = ".2f") -> str:
        return f"{self.median:{form}} ({self.low:{form}}-{self.high:{form}})"


@dataclass(frozen=True)
class Bar:
    """What a measured value must reach (``least``) or stay under (``most``)."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> None:
    """Print a table whose first ``left`` columns are words and whose others are numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place < left else "right")
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=140).print(table)


def show_bars(bars: Iterable[Bar]) -> None:
    """Print each bar, what was measured and whether it is met."""

    def plain(number: float) -> str:
        return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"

    rows = []
    for bar in bars:
        bound = f"at least {plain(bar.least)}" if bar.least is not None else f"at most {plain(bar.most or 0.0)}"
        rows.append((bar.name, plain(bar.value), bound, "met" if bar.met else "NOT MET"))
    show_table("Bars", ["what", "measured", "bar", ""], rows)


def keep(out: Path, name: str, found: Mapping[str, Any], bars: Iterable[Bar] = ()) -> None:
    """Write ``found`` with bars, versions and machine to ``out``/``name``.json."""
    out.mkdir(parents=True, exist_ok=True)
    whole = {
        "versions": versions(),
        "machine": machine(),
        **found,
        "bars": [asdict(bar) | {"met": bar.met} for bar in bars],
    }
    (out / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def versions(names: Sequence[str] = ("ecgray", "numpy", "ray", "torch")) -> dict[str, str]:
    """Those of the packages that are there, and Python's."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, and the load when asked: whether anything else ran."""
    from ecgray.processor import cores

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "processor": processor,
        "cores": cores(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }


def words(about: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: --repeats and --out."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser
