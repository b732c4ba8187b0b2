"""scores.json against scikit-learn on the same table."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from ecgray.errors import EcgrayError
from ecgray.evaluation.scores import score_predictions

CLASSES = ("N", "A", "O", "~")


def predictions(seeds: int = 3, records: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    labels = rng.choice(CLASSES, records)
    parts = []
    for seed in range(seeds):
        names = [f"R{i:03d}" for i in rng.permutation(records)]
        truth = labels[[int(name[1:]) for name in names]]
        guess = np.where(rng.random(records) < 0.6, truth, rng.choice(CLASSES, records))
        parts.append(
            pd.DataFrame(
                {"seed": seed, "split": "test", "database": "x", "record": names, "patient": names, "label": truth}
                | {"predicted": guess}
            )
        )
        parts.append(parts[-1].head(5 + seed).assign(split="val"))
    return pd.concat(parts, ignore_index=True)


def test_scores_equal_scikit_learn_per_seed() -> None:
    table = predictions()
    found = score_predictions(table, CLASSES, resamples=300)
    json.dumps(found, allow_nan=False)
    test = found["splits"]["test"]["scores"]
    expected = [
        f1_score(part["label"], part["predicted"], labels=CLASSES, average="macro")
        for _, part in table[table["split"] == "test"].groupby("seed")
    ]
    assert test["macro_f1"]["values"] == pytest.approx(expected)
    assert test["macro_f1"]["sd"] == pytest.approx(np.std(expected, ddof=1))
    assert test["macro_f1"]["low"] < test["macro_f1"]["mean"] < test["macro_f1"]["high"]
    assert np.sum(found["splits"]["test"]["confusion"]) == 3 * 60
    assert found["splits"]["val"]["scores"]["macro_f1"]["low"] is None
    assert found["splits"]["val"]["records"] == [5, 6, 7]


def test_a_class_without_records_in_some_seed_is_named() -> None:
    table = predictions()
    assert score_predictions(table, CLASSES, resamples=2)["splits"]["test"]["absent"] == []
    lacking = table[(table["seed"] != 1) | (table["label"] != "A")]
    found = score_predictions(lacking, CLASSES, resamples=2)["splits"]["test"]
    assert found["absent"] == ["A"] and found["scores"]["f1_A"]["values"][1] == 0


def test_one_seed_has_no_deviation_but_an_interval() -> None:
    scores = score_predictions(predictions(seeds=1), CLASSES, resamples=200)["splits"]["test"]["scores"]["macro_f1"]
    assert scores["sd"] is None and scores["low"] < scores["high"]


def test_a_label_outside_the_classes_is_refused() -> None:
    with pytest.raises(EcgrayError, match="got also A"):
        score_predictions(predictions(), ("N", "O", "~"))
