"""What a report takes from stored runs. Every number in it comes from the predictions read here."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ecgray.config import from_dict
from ecgray.errors import EcgrayError, quoted
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.folder import read_config
from ecgray.finetuning.stored import PROBABILITY, read_environment, read_predictions, read_splits
from ecgray.finetuning.tested import Tested, digest, signals_hash, tested_on
from ecgray.shards.manifest import read_manifest
from ecgray.shards.storage import is_remote, join, resolve
from ecgray.training.config import PretrainConfig
from ecgray.training.model_folder import json_lines, read_json
from ecgray.training.published import fetched_run


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """The run that a finetuning run started from, as far as it is still known.

    config: None where neither the finetuning run nor the folder says it; step: of the checkpoint that was used;
    chosen_at: the last step of those whose best it was; databases: names of its shard sets' databases, empty where
    these cannot be read.
    """

    folder: str
    config: PretrainConfig | None
    step: int | None
    chosen_at: int | None
    databases: tuple[str, ...] = ()

    @property
    def frames(self) -> int | None:
        """Frames that the run had been trained on when its checkpoint was chosen (papers.md W11, W59)."""
        if self.config is None or self.chosen_at is None:
            return None
        return self.chosen_at * self.config.training.batch_size


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finetuning run, or its evaluation on other records.

    predictions: seed, split, database, record, patient, label, predicted, probability_<class>; splits: seed, split,
    database, record, ...; history: seed, epoch, val_macro_f1; evaluation: folder of the evaluation, None where the
    test is the run's own; evaluated_shards, evaluated_hashes: what was evaluated; evaluated_labels: what its labels
    count as (AFIB=A); signals: what names the samples of the scored records, empty where nothing does.
    """

    folder: Path | str
    config: FinetuneConfig
    environment: dict[str, Any]
    predictions: pd.DataFrame
    classes: tuple[str, ...]
    splits: pd.DataFrame
    history: pd.DataFrame
    pretraining: Pretraining | None
    evaluation: Path | str | None = None
    evaluated_shards: str | None = None
    evaluated_hashes: tuple[str, ...] = ()
    evaluated_labels: tuple[str, ...] = ()
    signals: str = ""

    @property
    def split(self) -> str:
        """The split that is scored: test, or validation for a run without test records."""
        return "test" if (self.predictions["split"] == "test").any() else "val"

    @property
    def scored(self) -> pd.DataFrame:
        """The predictions that are scored."""
        return self.predictions[self.predictions["split"] == self.split]

    @cached_property
    def tested(self) -> Tested:
        """The records that are scored."""
        found = tested_on(self.scored)
        assert found is not None, "predictions are of a test or of validation"
        return found

    @cached_property
    def scored_records(self) -> str:
        """The same for runs whose scores can be ranked: of the same records, with the same labels and samples."""
        rows = self.scored[["database", "record", "label", "seed"]].astype(str).drop_duplicates()
        shared = rows[["database", "record", "label"]].drop_duplicates()
        if len(shared) * rows["seed"].nunique() == len(rows):
            rows = shared  # how many seeds there are makes no other test
        return digest([(self.split, self.signals), *sorted(rows.itertuples(index=False, name=None))])

    @property
    def seeds(self) -> list[int]:
        return sorted(int(seed) for seed in self.predictions["seed"].unique())

    @property
    def trained_on(self) -> set[str]:
        """Databases of the records that train."""
        return set(self.splits.loc[self.splits["split"] == "train", "database"])

    @property
    def manifest_hashes(self) -> tuple[str, ...]:
        return (*self.environment.get("manifest_hashes", ()), *self.evaluated_hashes)

    @property
    def config_hash(self) -> str:
        return str(self.environment.get("config_hash", ""))

    @property
    def signal_shards(self) -> tuple[str, ...]:
        """Shard sets that may hold the scored records."""
        named = (self.evaluated_shards, self.config.data.test_shards, self.config.data.shards)
        return tuple(path for path in named if path and path != "none")

    def count(self, split: str) -> int:
        """Records of a split, averaged over seeds (they differ by rounding at most)."""
        counts = self.splits[self.splits["split"] == split].groupby("seed").size()
        return round(counts.mean()) if len(counts) else 0


ADVICE = "give folders that 'ecgray finetune' or 'ecgray evaluate' has written"


def read_run(place: Path | str) -> Run:
    """The run (or evaluation) at ``place``, a folder or a URL. Raises EcgrayError when it is none, or when no seed is
    complete."""
    place, folder = _folder(place)
    evaluation = folder / "evaluation.json"
    if evaluation.is_file():
        return _read_evaluation(place, folder, read_json(evaluation))
    return _read_finetuned(place, folder)


def _folder(place: Path | str) -> tuple[Path | str, Path]:
    """The place as it is named, and the folder on this machine that holds what lies there."""
    if is_remote(place):
        place = resolve(place)
        folder = fetched_run(place)
    else:
        place = folder = Path(place).expanduser()
    if not folder.is_dir():
        raise EcgrayError(
            f"A report needs finished finetuning runs, got {quoted(str(place), 300)}, which is no folder; {ADVICE}."
        )
    return place, folder


def _read_finetuned(place: Path | str, folder: Path) -> Run:
    if (folder / "checkpoints").is_dir():
        raise EcgrayError(
            f"A report needs finetuning runs, got '{place}', which is a pretraining run; "
            f"finetune from it with --pretrained {place} and report that."
        )
    if not (folder / "config.json").is_file():
        raise EcgrayError(f"A report needs finished finetuning runs, got '{place}' without config.json; {ADVICE}.")
    environment = read_environment(folder)
    predictions = _predictions(place, folder)
    run = Run(
        folder=place,
        config=read_config(folder),
        environment=environment,
        predictions=predictions,
        classes=_classes(predictions),
        splits=read_splits(folder / "splits.parquet"),
        history=_history(folder),
        pretraining=_pretraining(environment.get("pretrained")),
    )
    scored = run.splits[(run.splits["split"] == run.split) & run.splits["seed"].isin(run.seeds)]
    return _scored_by_every_seed(replace(run, signals=signals_hash(scored)))


def _read_evaluation(place: Path | str, folder: Path, values: dict[str, Any]) -> Run:
    """The evaluated run with the evaluation's predictions as its test."""
    try:
        run = _read_finetuned(*_folder(str(values.get("run"))))
    except EcgrayError as error:
        raise EcgrayError(f"The evaluation '{place}' needs the run that it is of: {error}") from error
    hashes: Any = values.get("manifest_hashes")
    labels: Any = values.get("labels", [])
    if not all(isinstance(many, list) and all(isinstance(one, str) for one in many) for many in (hashes, labels)):
        raise EcgrayError(f"'{place}/evaluation.json' must name what was evaluated, got nothing; evaluate again.")
    predictions = read_predictions(folder / "predictions.parquet")
    if _classes(predictions) != run.classes:
        raise EcgrayError(f"The evaluation '{place}' must have the classes of its run, got others; evaluate again.")
    tested = predictions[[name for name in run.splits.columns if name in predictions.columns]]
    evaluated = replace(
        run,
        predictions=predictions,
        splits=pd.concat([run.splits[run.splits["split"] != "test"], tested], ignore_index=True),
        history=run.history.iloc[:0],
        evaluation=place,
        evaluated_shards=str(values.get("data", "")),
        evaluated_hashes=tuple(hashes),
        evaluated_labels=tuple(labels),
        signals=str(values.get("signals") or " ".join(hashes)),  # evaluations of before it was kept name their set
    )
    return _scored_by_every_seed(evaluated)


def _scored_by_every_seed(run: Run) -> Run:
    if set(run.scored["seed"]) != set(run.predictions["seed"]):
        raise EcgrayError(
            f"Every seed of '{run.evaluation or run.folder}' must have predicted the split {run.split}, got some that "
            "have not; finish it with 'ecgray finetune ... --resume'."
        )
    return run


def _predictions(place: Path | str, folder: Path) -> pd.DataFrame:
    """Of all complete seeds: a run that was stopped is reported with the seeds it has."""
    parts = [
        read_predictions(seed / "predictions.parquet")
        for seed in sorted((folder / "seeds").glob("seed-*"))
        if (seed / "complete").is_file()
    ]
    if not parts and (folder / "predictions.parquet").is_file():
        parts = [read_predictions(folder / "predictions.parquet")]
    if not parts:
        raise EcgrayError(
            f"A report needs finished seeds, got none in '{place}'; go on with 'ecgray finetune ... --resume'."
        )
    if any(_classes(part) != _classes(parts[0]) for part in parts):
        raise EcgrayError(f"The seeds of '{place}' must have the same classes, got several; finetune again.")
    return pd.concat(parts, ignore_index=True)


def _classes(predictions: pd.DataFrame) -> tuple[str, ...]:
    return tuple(name.removeprefix(PROBABILITY) for name in predictions.columns if name.startswith(PROBABILITY))


def _history(folder: Path) -> pd.DataFrame:
    """Columns seed, epoch, val_macro_f1: a row per epoch of every complete seed."""
    rows = [
        (int(seed.name.removeprefix("seed-")), values["epoch"], values["val_macro_f1"])
        for seed in sorted((folder / "seeds").glob("seed-*"))
        if (seed / "complete").is_file()
        for values in json_lines((seed / "metrics.jsonl").read_bytes() if (seed / "metrics.jsonl").is_file() else b"")
        if type(values.get("epoch")) is int and type(values.get("val_macro_f1")) in (int, float)
    ]
    return pd.DataFrame(rows, columns=["seed", "epoch", "val_macro_f1"])


def _pretraining(origin: Any) -> Pretraining | None:
    """From what a finetuning run noted of its pretrained network: {"folder": RUN/checkpoints/step-000123, ...}."""
    if not origin:
        return None
    parent, _, name = str(origin["folder"]).rpartition("/")
    run = parent.removesuffix("/checkpoints") if parent.endswith("/checkpoints") else str(origin["folder"])
    number = name.removeprefix("step-")
    step = int(number) if number.isdecimal() else None
    config = None
    with contextlib.suppress(EcgrayError):
        stored = origin.get("config") or read_json(Path(run, "config.json"))
        config = from_dict(PretrainConfig, stored, where=join(run, "config.json"))
    return Pretraining(
        folder=run,
        config=config,
        step=step,
        chosen_at=origin.get("chosen_at", step),
        databases=_databases(config.data.shards) if config is not None else (),
    )


def _databases(shards: Sequence[str]) -> tuple[str, ...]:
    names = []
    for path in shards:
        with contextlib.suppress(EcgrayError, OSError):
            names.append(read_manifest(path).database)
    return tuple(dict.fromkeys(names))
