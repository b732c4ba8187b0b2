"""Finetuning, evaluation and report at URLs of a real S3 server: the numbers of the same run in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ecgray
from ecgray.errors import EcgrayError
from ecgray.finetuning import seed_run
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.evaluate import evaluate
from ecgray.finetuning.predict import predict
from ecgray.finetuning.protocol import finetune
from ecgray.report.report import write_report
from ecgray.shards.storage import download, join, list_files, read_bytes, upload

Make = Callable[..., FinetuneConfig]


@pytest.fixture
def labelled_url(labelled: Path, bucket: str) -> str:
    url = join(bucket, "shards", "labelled")
    for file in labelled.rglob("*.*"):
        upload(file, join(url, str(file.relative_to(labelled))))
    return url


def table(url: str, tmp_path: Path) -> pd.DataFrame:
    download(url, tmp_path / "table.parquet")
    return pd.read_parquet(tmp_path / "table.parquet")


def test_from_shards_to_report(
    labelled: Path, labelled_url: str, small: Make, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "local"
    finetune(small(labelled), folder)
    url, config = f"{bucket}/runs/none", small(labelled_url)
    monkeypatch.setattr(seed_run, "PUBLISH_S", 0.0)

    # Killed after an epoch of the second seed, and gone on with from another machine.
    epochs, epoch = [], seed_run.SeedTraining._epoch

    def stop_in_the_middle(self: Any) -> None:
        if len(epochs) == 4:
            raise KeyboardInterrupt
        epochs.append(1)
        epoch(self)

    monkeypatch.setattr(seed_run.SeedTraining, "_epoch", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, url)
    there = list_files(url)
    assert "seeds/seed-00/chosen.json" in there and "seeds/seed-01/training.safetensors" in there
    with pytest.raises(EcgrayError, match=f"got {url}, which holds one; go on with --resume"):
        finetune(config, url)
    monkeypatch.setenv("ECGRAY_CACHE", str(tmp_path / "another-machine"))
    monkeypatch.setattr(seed_run.SeedTraining, "_epoch", lambda self: (epochs.append(1), epoch(self)))
    assert finetune(config, url, resume=True) == url
    assert len(epochs) == 6  # of two seeds with three epochs: none was done again

    pd.testing.assert_frame_equal(
        table(f"{url}/predictions.parquet", tmp_path), pd.read_parquet(folder / "predictions.parquet")
    )
    assert read_bytes(f"{url}/scores.json") == (folder / "scores.json").read_bytes()
    for seed in ("seed-00", "seed-01"):
        file = f"seeds/{seed}/model.safetensors"
        assert read_bytes(join(url, file)) == (folder / file).read_bytes()
    assert not any(name.endswith("training.safetensors") for name in list_files(url))
    assert not os.listdir(tmp_path / "another-machine" / "work")

    report = write_report([url], f"{bucket}/report")
    assert report == f"{bucket}/report/report.html"
    page = read_bytes(str(report)).decode()
    assert url in page and '<svg class="strip"' in page
    write_report([folder], tmp_path / "report")
    names = {str(file.relative_to(tmp_path / "report")) for file in (tmp_path / "report").rglob("*")}
    assert list_files(f"{bucket}/report").keys() == names
    scores = read_bytes(f"{bucket}/report/scores.csv")
    assert scores.replace(url.encode(), b"RUN") == (tmp_path / "report" / "scores.csv").read_bytes().replace(
        str(folder).encode(), b"RUN"
    )
    with pytest.raises(EcgrayError, match="The report must go into a folder of its own"):
        write_report([url], url)

    network = ecgray.load(url)
    assert network.classes == ecgray.load(folder).classes and network.folder.name.startswith("seed-")
    assert network.folder.name == ecgray.load(folder).folder.name
    assert ecgray.load(f"{url}/seeds/seed-01").classes == network.classes


def test_evaluation_at_a_url(
    labelled_url: str, small: Make, bucket: str, tmp_path: Path, write_other: Callable[[Path], Path]
) -> None:
    url = f"{bucket}/runs/none"
    config = small(labelled_url)
    finetune(replace(config, protocol=replace(config.protocol, seeds=1, epochs=1)), url)
    other = write_other(tmp_path / "other")
    out = f"{bucket}/evaluations/other"
    assert evaluate(url, other, out) == out
    assert list_files(out).keys() == {"predictions.parquet", "scores.json", "evaluation.json"}
    with pytest.raises(EcgrayError, match=f"must go into a new folder, got {out}, which is not empty"):
        evaluate(url, other, out)
    table = predict(url, [other], f"{bucket}/said.csv")
    assert read_bytes(f"{bucket}/said.csv").decode() == table.to_csv(index=False)
    with pytest.raises(EcgrayError, match=r"said\.csv, which is there"):
        predict(url, [other], f"{bucket}/said.csv")
    assert write_report([out], tmp_path / "report") == tmp_path / "report" / "report.html"
