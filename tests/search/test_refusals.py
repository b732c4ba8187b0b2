"""What a sweep refuses before its folder is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecgray.errors import EcgrayError
from ecgray.recipes import SPACES
from ecgray.search.sweep import Resources, sweep

SPACE = SPACES["weimann2021_pretraining"]


def test_what_cannot_be_done_leaves_no_sweep(two_cpus: None, make_sweep: Any, tmp_path: Path) -> None:
    out, config = tmp_path / "sweep", make_sweep()
    fractions = replace(config, search=replace(config.search, train_fraction=0.9))
    elsewhere = replace(config, finetune=replace(config.finetune, data=replace(config.finetune.data, test_shards="no")))
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (fractions, {}, "sum of train, validation and test fractions"),
        (elsewhere, {}, "no"),
        (config, {"resources": Resources(workers=9)}, "A trial needs 9 workers"),
        (config, {"storage": "postgresql://user:hunter2@127.0.0.1:1/none"}, "storage must be"),
        (config, {"mlflow": "http://127.0.0.1:9"}, "--mlflow"),
    ]
    for asked, options, words in refused:
        with pytest.raises(EcgrayError, match=words):
            sweep(SPACE, asked, out, **options)
        assert not (out / "sweep.json").exists()
    with pytest.raises(EcgrayError, match="folder that its machines see, got s3://"):
        sweep(SPACE, config, "s3://bucket/sweep")
    with pytest.raises(EcgrayError, match="whole GPU for each"):
        Resources(workers=2, gpus=0.25)


def test_a_sweep_goes_on_in_its_own_storage_alone(two_cpus: None, make_sweep: Any, tmp_path: Path) -> None:
    """In another one it would begin again, and its trials would meet results of other settings."""
    space = SPACES["weimann2021_finetuning"]
    out, config = tmp_path / "sweep", make_sweep(trials=1)
    sweep(space, config, out, storage="journal")
    before = (out / "trials.json").read_bytes()
    with pytest.raises(EcgrayError, match="the storage it was started with"):
        sweep(space, config, out, resume=True)
    assert (out / "trials.json").read_bytes() == before
    assert sweep(space, config, out, storage="journal", resume=True) == out
