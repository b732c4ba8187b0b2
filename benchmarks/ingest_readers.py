"""Records per second of the readers against bare wfdb, in one process, the files in the page cache:

python benchmarks/ingest_readers.py DATABASE ROOT [--records 300] [--rounds 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import wfdb

from ecgray.databases import DATABASES, RecordRefused, Reference


def seconds(read: Callable[[Reference], object], references: Sequence[Reference]) -> float:
    start = time.perf_counter()
    for reference in references:
        read(reference)
    return time.perf_counter() - start


def with_wfdb(reference: Reference) -> None:
    """The digital signal of every lead, and the annotations where there are any."""
    wfdb.rdrecord(str(reference.path), physical=False)
    if reference.path.with_suffix(".atr").exists():
        wfdb.rdann(str(reference.path), "atr")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("database", choices=sorted(DATABASES))
    words.add_argument("root", type=Path)
    words.add_argument("--records", type=int, default=300)
    words.add_argument("--rounds", type=int, default=3)
    options = words.parse_args()
    database = DATABASES[options.database]()
    references = list(database.find(options.root))[: options.records]

    def with_ecgray(reference: Reference) -> None:
        with suppress(RecordRefused):
            database.read(reference)

    both = {"ecgray": with_ecgray, "wfdb": with_wfdb}
    # Rounds take turns, so that a busy machine disturbs both alike; the best round counts.
    best = dict.fromkeys(both, float("inf"))
    for _ in range(options.rounds + 1):
        for name, read in both.items():
            best[name] = min(best[name], seconds(read, references))
    for name, took in best.items():
        print(f"{name:8s} {len(references) / took:10.1f} records/s")
    print(f"ratio    {best['wfdb'] / best['ecgray']:10.1f}")


if __name__ == "__main__":
    main()
