"""What a finetuning run has stored, read back as what it must be: predictions, splits, environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecgray.errors import EcgrayError, quoted
from ecgray.shards.tables import Kind, read_table
from ecgray.training.model_folder import read_json

PROBABILITY = "probability_"
_KEYS: dict[str, Kind] = {
    "seed": "integer",
    "split": "text",
    "database": "text",
    "record": "text",
    "patient": "text",
    "label": "text",
}
_ADVICE = "give a folder that 'ecgray finetune' or 'ecgray evaluate' has written"


def read_predictions(file: Path) -> pd.DataFrame:
    """Columns seed, split (val or test), database, record, patient, label, predicted, probability_<class>.

    Raises EcgrayError for a file that is missing, not whole, or holds anything else.
    """
    table = read_table(file, _KEYS | {"predicted": "text"}, more=(PROBABILITY, "number"), advice=_ADVICE).to_pandas()
    classes = [name.removeprefix(PROBABILITY) for name in table.columns if name.startswith(PROBABILITY)]
    probabilities = table[[f"{PROBABILITY}{name}" for name in classes]].to_numpy(np.float64)
    _need(len(table) > 0 and len(classes) > 0, file, "rows and probabilities", "none")
    _need(bool(np.isfinite(probabilities).all()), file, "finite probabilities", "others")
    _need_among(file, table, "split", ["val", "test"])
    for column in ("label", "predicted"):
        _need_among(file, table, column, classes)
    _need(table["seed"].min() >= 0, file, "seeds from 0 on", str(table["seed"].min()))
    return table


def read_splits(file: Path) -> pd.DataFrame:
    """Columns seed, split (train, val, test or unused), database, record, patient, label, signal_hash.

    Raises EcgrayError for a file that is missing, not whole, or holds anything else.
    """
    table = read_table(file, _KEYS | {"signal_hash": "text"}, advice=_ADVICE).to_pandas()
    _need_among(file, table, "split", ["train", "val", "test", "unused"])
    return table


def read_names(file: Path) -> pd.DataFrame:
    """Columns seed, split, database, record of splits or predictions: which records, and not what they are or said.

    Raises EcgrayError for a file that is missing, not whole, or holds anything else.
    """
    names: dict[str, Kind] = {name: _KEYS[name] for name in ("seed", "split", "database", "record")}
    return read_table(file, names, advice=_ADVICE).to_pandas()


def read_environment(run: Path) -> dict[str, Any]:
    """environment.json of a finetuning run; raises EcgrayError where what later steps need of it has another form."""
    values = read_json(run / "environment.json")
    origin, hashes = values.get("pretrained"), values.get("manifest_hashes")
    rules = {
        "records": type(values.get("records")) is int and 0 <= values["records"] < 2**53,
        "manifest_hashes": isinstance(hashes, list) and all(isinstance(one, str) for one in hashes),
        "pretrained": origin is None or (isinstance(origin, dict) and _is_origin(origin)),
    }
    for name, holds in rules.items():
        _need(holds, run / "environment.json", f"{name} as a run writes it", quoted(values.get(name), 60))
    return values


def _is_origin(origin: dict[str, Any]) -> bool:
    hashes, config, step = origin.get("manifest_hashes", []), origin.get("config"), origin.get("chosen_at")
    return (
        isinstance(origin.get("folder"), str)
        and isinstance(hashes, list)
        and all(isinstance(one, str) for one in hashes)
        and isinstance(config, (dict, type(None)))
        and (step is None or (type(step) is int and 0 <= step < 2**53))
    )


def _need_among(file: Path, table: pd.DataFrame, column: str, known: list[str]) -> None:
    strange = sorted(set(table[column]) - set(known))
    _need(not strange, file, f"{column} of {', '.join(known)}", ", ".join(strange[:5])[:100])


def _need(holds: bool, file: Path, what: str, got: str) -> None:
    if not holds:
        raise EcgrayError(f"'{file}' must hold {' '.join(what.split())}, got {' '.join(got.split())}; {_ADVICE}.")
