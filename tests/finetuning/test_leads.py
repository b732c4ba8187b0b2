"""Leads meet by name: the order of a data set's leads changes nothing, and other leads are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from ecgray.databases.record import Record
from ecgray.errors import EcgrayError
from ecgray.finetuning.config import FinetuneConfig, FinetuneDataConfig, ProtocolConfig
from ecgray.finetuning.evaluate import evaluate
from ecgray.finetuning.folder import seed_folder
from ecgray.finetuning.predict import predict
from ecgray.finetuning.protocol import finetune
from ecgray.models.resnet import ResNet
from ecgray.training.model_folder import read_description
from tests.finetuning.conftest import make_records, write_shards
from tests.finetuning.test_leaks import pretraining_run

Small = Callable[..., FinetuneConfig]


def named(records: Sequence[Record], *leads: str) -> list[Record]:
    return [replace(record, leads=leads) for record in records]


def turned(records: Sequence[Record]) -> list[Record]:
    """The same records with their leads from last to first."""
    return [
        replace(r, leads=r.leads[::-1], signal=r.signal[::-1], gain=r.gain[::-1], baseline=r.baseline[::-1])
        for r in records
    ]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("leads")
    learnt = named(make_records({"N": 24, "A": 16}, leads=2), "I", "aVR")
    asked = named(make_records({"N": 6, "A": 6}, first=5000, leads=2), "I", "AVR")
    return {
        name: write_shards(folder / name, records)
        for name, records in {
            "learnt": learnt,
            "learnt_turned": turned(learnt),
            "asked": asked,
            "asked_turned": turned(asked),
            "others": named(asked, "V5", "aVR"),
        }.items()
    }


@pytest.fixture(scope="module")
def run(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = FinetuneConfig(
        data=FinetuneDataConfig(shards=str(sets["learnt"]), fs=100.0, seconds=10.0),
        protocol=ProtocolConfig(seeds=1, epochs=2, batch_size=16),
        model=ResNet(width=4),
    )
    return Path(finetune(config, tmp_path_factory.mktemp("leads_run") / "run"))


def test_evaluate_finds_the_leads_by_name(run: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    first, second = (
        pd.read_parquet(Path(evaluate(run, sets[name], tmp_path / name)) / "predictions.parquet")
        for name in ("asked", "asked_turned")
    )
    pd.testing.assert_frame_equal(first, second)
    with pytest.raises(EcgrayError, match=r"must be 'I, aVR' .*, got 'V5, aVR'"):
        evaluate(run, sets["others"], tmp_path / "others")
    assert not (tmp_path / "others").exists()


def test_a_test_set_has_the_leads_of_the_labelled_one(small: Small, sets: dict[str, Path], tmp_path: Path) -> None:
    def predictions(name: str) -> pd.DataFrame:
        config = small(
            sets["learnt"], data={"test_shards": str(sets[name])}, protocol={"seeds": 1, "epochs": 1, "batch_size": 14}
        )
        return pd.read_parquet(Path(finetune(config, tmp_path / name)) / "predictions.parquet")

    pd.testing.assert_frame_equal(predictions("asked"), predictions("asked_turned"))
    with pytest.raises(EcgrayError, match=r"must be 'I, aVR' .*, got 'V5, aVR'"):
        predictions("others")
    assert not (tmp_path / "others").exists()


def test_a_pretrained_network_gets_its_leads_in_its_order(small: Small, sets: dict[str, Path], tmp_path: Path) -> None:
    pretrained = pretraining_run(tmp_path / "pretrained", sets["others"], leads=("i", "avr"))
    ends = []
    for name in ("learnt", "learnt_turned"):
        config = small(sets[name], protocol={"seeds": 1, "epochs": 1}, pretrained=str(pretrained))
        folder = seed_folder(Path(finetune(config, tmp_path / name)), 0)
        assert read_description(folder).leads == ("i", "avr")
        ends.append(load_file(folder / "model.safetensors"))
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])
    other = pretraining_run(tmp_path / "other", sets["asked"], leads=("V5", "aVR"))
    with pytest.raises(EcgrayError, match=r"must be 'V5, aVR' .*, got 'I, aVR'"):
        finetune(small(sets["learnt"], pretrained=str(other)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_single_lead_may_have_another_name(labelled: Path, small: Small, tmp_path: Path) -> None:
    """As of Icentia11K ("ecg") and CinC2017 ("ECG"): pretraining, finetuning and the test set each name theirs."""
    test = write_shards(tmp_path / "asked", named(make_records({"N": 6, "A": 6}, first=5000), "V1"))
    other = write_shards(tmp_path / "other", named(make_records({"N": 6}, first=6000), "ecg"))
    pretrained = pretraining_run(tmp_path / "pretrained", other, leads=("ecg",))
    config = small(
        labelled, data={"test_shards": str(test)}, protocol={"seeds": 1, "epochs": 1}, pretrained=str(pretrained)
    )
    run = Path(finetune(config, tmp_path / "run"))
    assert read_description(seed_folder(run, 0)).leads == ("lead0",)
    more = write_shards(tmp_path / "more", named(make_records({"N": 6, "A": 6}, first=7000), "II"))
    evaluate(run, more, tmp_path / "out")


def test_predictions_of_files_that_spell_leads_otherwise(run: Path, tmp_path: Path) -> None:
    """The network's leads are I and aVR."""
    records = make_records({"N": 2, "A": 2}, first=6000, leads=2)
    names = [("I", "aVR"), ("i", "avr"), ("I", "AVR"), ("i ", "aVR,")]
    for record, leads in zip(records, names, strict=True):
        others = np.zeros((2, record.signal.shape[1]), np.int16)
        np.concatenate([others, record.signal[::-1]]).T.astype("<i2").tofile(tmp_path / f"{record.id}.dat")
        lines = [f"{record.id}.dat 16 200/mV 16 0 0 0 0 {name}" for name in ("RESP", "V1", leads[1], leads[0])]
        header = [f"{record.id} 4 100 {record.signal.shape[1]}", *lines, ""]
        (tmp_path / f"{record.id}.hea").write_text("\n".join(header))
    table = predict(run, [tmp_path], tmp_path / "out.csv")
    assert table["record"].unique().tolist() == [record.id for record in records]
    assert table["refused"].isna().all()
    exact = [replace(r, leads=("I", "aVR"), gain=np.full(2, 200.0), baseline=np.zeros(2)) for r in records]
    of_set = predict(run, [write_shards(tmp_path / "shards", exact)], tmp_path / "set.csv")
    columns = [name for name in table.columns if name.startswith("probability_")]
    np.testing.assert_allclose(table[columns], of_set[columns], rtol=0, atol=2e-6)
