"""Does each pretraining task learn something about patients it has not seen? Balanced accuracy on the validation
patients, beside the majority class and beside the same run with shuffled training targets.

    python benchmarks/pretext.py MITDB_250HZ [ICENTIA11K ...] --out DIR [--steps 1000] [--width 16]

Prints a table, writes pretext.json and pretext.png (balanced accuracy on validation over the steps).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

import ecgray.training.loop as loop
from ecgray.models.resnet import ResNet
from ecgray.recipes import find_recipe
from ecgray.sampling.stream import Batch
from ecgray.training.pretraining import pretrain

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RECIPES = ("weimann2021_beat", "weimann2021_rhythm", "weimann2021_heart_rate", "weimann2021_future")


def shuffled(open_stream: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
    """The same stream with the targets of every batch in another order: what is asked no longer fits the signal."""

    def stream(*arguments: Any, **settings: Any) -> Iterator[Batch]:
        draw = np.random.default_rng(0)
        for batch in open_stream(*arguments, **settings):
            yield replace(batch, target=draw.permutation(batch.target))

    return stream


def validations(run: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == "validation"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--future-steps", type=int, default=500)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--val-fraction", type=float, default=0.25)
    words = parser.parse_args()

    true_stream, found = loop.open_stream, {}
    for name in RECIPES:
        config = find_recipe(name, "pretrain").make()
        assert isinstance(config.model, ResNet)
        steps = words.future_steps if name.endswith("future") else words.steps
        config = replace(
            config,
            data=replace(config.data, shards=tuple(words.shards)),
            model=replace(config.model, width=words.width),
            sampling=replace(config.sampling, val_fraction=words.val_fraction, val_frames_per_patient=400),
            training=replace(
                config.training,
                steps=steps,
                validate_every=max(1, steps // 10),
                checkpoint_every=steps,
                threads=words.threads,
            ),
        )
        curves = {}
        for kind, stream in (("targets", true_stream), ("shuffled targets", shuffled(true_stream))):
            loop.open_stream = stream
            run = pretrain(config, words.out / f"{name}-{kind.split()[0]}", resume=True)
            curves[kind] = validations(run)
        loop.open_stream = true_stream
        confusion = np.array(curves["targets"][-1]["confusion"])
        found[name] = {
            "steps": steps,
            "frames": int(confusion.sum()),
            "majority": float(confusion.sum(1).max() / confusion.sum()),
            "chance": float(1 / (confusion.sum(1) > 0).sum()),
            "accuracy": curves["targets"][-1]["accuracy"],
            "confusion": confusion.tolist(),
            "balanced": {kind: [row["balanced_accuracy"] for row in rows] for kind, rows in curves.items()},
            "at": [row["step"] for row in curves["targets"]],
        }
    (words.out / "pretext.json").write_text(json.dumps(found, indent=2))
    show(found)
    draw(found, words.out / "pretext.png")


def show(found: dict[str, Any]) -> None:
    columns = ("recipe", "frames", "majority class", "accuracy", "balanced: chance", "shuffled targets", "targets")
    table = Table(*columns, title="Validation patients, last step")
    for name, row in found.items():
        last = [row["balanced"][kind][-1] for kind in ("shuffled targets", "targets")]
        values = (row["majority"], row["accuracy"], row["chance"], *last)
        table.add_row(name, str(row["frames"]), *(f"{value:.3f}" for value in values))
    Console(width=130).print(table)


def draw(found: dict[str, Any], file: Path) -> None:
    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 3.2), sharey=True, layout="constrained")
    for axis, (name, row) in zip(axes, found.items(), strict=True):
        for kind, style in (("targets", "-"), ("shuffled targets", "--")):
            axis.plot(row["at"], row["balanced"][kind], style, label=kind)
        axis.axhline(row["chance"], color="0.6", lw=0.8, label="chance")
        axis.set(title=name.removeprefix("weimann2021_"), xlabel="step", ylim=(0, 1))
    axes[0].set_ylabel("balanced accuracy")
    axes[0].legend(frameon=False)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
