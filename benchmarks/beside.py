"""What pretraining, finetuning and prediction keep of their rate beside one busy process, and lose on an idle machine.

    python benchmarks/beside.py [--repeats 3]

Each is measured in a process of its own, in turn: on the idle machine and beside a process that keeps one core busy,
with ecgray's threads and with threads that always spin while they wait, as OpenMP's do by themselves. ResNet-18 of the
full width on synthetic hearts; the first steps are left out.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import Bar, Spread, keep, show_bars, show_table, words

RECORDS, SECONDS, STEPS = 200, 10, 15
BUSY = "x = 1\nwhile True:\n    x = x * 1103515245 % 2147483647\n"
KINDS = {
    "pretraining": "pretraining, this process",
    "worker": "pretraining, a Ray Train worker",
    "finetuning": "finetuning",
    "prediction": "prediction",
}


def prepare(folder: Path) -> None:
    """Shard sets of walks and of labelled records, and a finetuned run to predict with."""
    from walks import write_walks

    from ecgray.databases import DATABASES
    from ecgray.databases.synthesise import write_labelled
    from ecgray.shards.ingest import ingest

    write_walks(folder / "walks", megabytes=80)
    write_labelled(folder / "files", records=RECORDS, seed=0)
    ingest(DATABASES["synthetic"](), folder / "files", folder / "labelled", workers=0, progress=False)
    finetuning(folder, folder / "run")


def pretraining(folder: Path, run: Path, workers: int = 0) -> float:
    """Frames a second."""
    from bare import config_of

    from ecgray.training.pretraining import pretrain

    config = config_of(folder / "walks", steps=STEPS + 3, log_every=1)
    pretrain(config, run, workers=workers, show_progress=False)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [row["frames_per_s"] for row in rows if "frames_per_s" in row]
    return Spread.of(times[2:-1]).median


def finetuning(folder: Path, run: Path) -> float:
    """Records a second, training and validation."""
    from ecgray.finetuning.config import FinetuneConfig
    from ecgray.finetuning.protocol import finetune
    from ecgray.recipes import find_recipe

    config = find_recipe("weimann2021_table1_none", "finetune").make()
    assert isinstance(config, FinetuneConfig)
    data = replace(config.data, shards=str(folder / "labelled"), seconds=SECONDS)
    protocol = replace(config.protocol, seeds=1, epochs=3, batch_size=32)
    finetune(replace(config, data=data, protocol=protocol), run)
    rows = [json.loads(line) for line in (run / "seeds" / "seed-00" / "metrics.jsonl").read_text().splitlines()]
    return RECORDS * (data.train_fraction + protocol.val_fraction) / Spread.of(r["seconds"] for r in rows[1:]).median


def prediction(folder: Path, run: Path) -> float:
    """Records a second, networks loaded and signals read."""
    from ecgray.finetuning.predict import predict

    times = []
    for turn in range(3):
        began = time.perf_counter()
        predict(folder / "run", [folder / "labelled"], run.with_name(f"{run.name}-{turn}.csv"))
        times.append(time.perf_counter() - began)
    return RECORDS / Spread.of(times[1:]).median


def child(kind: str, folder: Path, run: Path, spinning: bool) -> None:
    from ecgray.training import threads

    if spinning:
        threads.crowded = lambda *_, **__: False  # type: ignore[assignment]
    measures: dict[str, Any] = {"pretraining": pretraining, "finetuning": finetuning, "prediction": prediction}
    rate = pretraining(folder, run, workers=1) if kind == "worker" else measures[kind](folder, run)
    print(json.dumps({"rate": rate}))


@contextlib.contextmanager
def busy_process(there: bool) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", BUSY]) if there else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def rate_of(kind: str, folder: Path, number: int, *, busy: bool, spinning: bool) -> float:
    command = [
        sys.executable,
        __file__,
        "--child",
        kind,
        str(folder),
        str(folder / f"run-{number}"),
        str(int(spinning)),
    ]
    with busy_process(busy):
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return float(json.loads(said.stdout.splitlines()[-1])["rate"])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), bool(int(sys.argv[5])))
        return
    parser = words(__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS))
    given = parser.parse_args()
    rows, bars, number = [], [], 0
    with tempfile.TemporaryDirectory(prefix="ecgray-bench-") as name:
        folder = Path(name)
        prepare(folder)
        for kind in given.kinds.split(","):
            # What is patched for spinning does not reach Ray's workers.
            ways = [
                (busy, spinning) for spinning in ((False,) if kind == "worker" else (False, True)) for busy in (0, 1)
            ]
            rates: dict[tuple[int, bool], list[float]] = {way: [] for way in ways}
            for _ in range(given.repeats):
                for busy, spinning in ways:
                    number += 1
                    rates[busy, spinning].append(rate_of(kind, folder, number, busy=bool(busy), spinning=spinning))
            kept = Spread.ratio(rates[1, False], rates[0, False])
            row: dict[str, Any] = {"what": kind, "rates": {f"{b}-{s}": r for (b, s), r in rates.items()}}
            row |= {"kept": vars(kept)}
            bars.append(Bar(f"{KINDS[kind]}: beside one busy process, of the idle rate", kept.median, least=0.5))
            if kind != "worker":
                row["kept_spinning"] = vars(Spread.ratio(rates[1, True], rates[0, True]))
                idle = Spread.ratio(rates[0, False], rates[0, True])
                row["idle"] = vars(idle)
                bars.append(Bar(f"{KINDS[kind]}: idle, of the rate of spinning threads", idle.median, least=0.97))
            rows.append(row)
    show_table(
        "Records (frames) a second, idle and beside one busy process",
        ["what", "idle", "beside", "kept (range)", "spinning: kept (range)", "idle / spinning idle"],
        [
            (
                KINDS[row["what"]],
                Spread.of(row["rates"]["0-False"]).show(".1f"),
                Spread.of(row["rates"]["1-False"]).show(".1f"),
                Spread(**row["kept"]).show(),
                Spread(**row["kept_spinning"]).show() if "idle" in row else "",
                Spread(**row["idle"]).show() if "idle" in row else "",
            )
            for row in rows
        ],
    )
    show_bars(bars)
    keep(given.out, "beside", {"rows": rows}, bars)


if __name__ == "__main__":
    main()
