"""What a sweep refuses before its folder is one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecgray.cli import main
from ecgray.config import with_values
from ecgray.databases import DATABASES
from ecgray.databases.synthesise import write_labelled
from ecgray.errors import EcgrayError
from ecgray.finetuning.protocol import finetune
from ecgray.recipes import SPACES
from ecgray.search.folder import open_sweep
from ecgray.search.sweep import Resources, _resolved, sweep
from ecgray.shards.ingest import ingest

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


def test_a_sweep_goes_on_with_its_own_records_alone(make_sweep: Any, tmp_path: Path) -> None:
    """Wherever they lie; trials that learned from others could not be ranked beside the old ones."""
    sets = {}
    for name, seed in (("own", 1), ("moved", 1), ("other", 2)):
        sets[name] = tmp_path / name / "shards"
        write_labelled(tmp_path / name / "files", records=40, seed=seed)
        ingest(DATABASES["synthetic"](), tmp_path / name / "files", sets[name], workers=0, progress=False)

    def opened(field: str, name: str, *, resume: bool) -> Any:
        config = with_values(make_sweep(), {f"finetune.data.{field}": str(sets[name])})
        return open_sweep(tmp_path / field, *_resolved(config), resume=resume)

    for field in ("shards", "test_shards"):
        with opened(field, "own", resume=False) as (_, _, begin):
            begin()
    with opened("shards", "moved", resume=True):
        pass
    with pytest.raises(EcgrayError, match="got others of: the content"), opened("shards", "other", resume=True):
        pass
    sets["own"].rename(tmp_path / "kept")
    sets["other"].rename(sets["own"])
    with pytest.raises(EcgrayError, match="got others of: the content"), opened("test_shards", "own", resume=True):
        pass


def test_the_folder_of_a_sweep_holds_no_password(make_sweep: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["ecgray", "--storage", "postgresql://user:hunter2@db.example/studies"])
    with open_sweep(tmp_path / "sweep", make_sweep(), {}, resume=False) as (folder, _, begin):
        begin()
        config = make_sweep().of_trial({"finetune.protocol.seeds": 1, "finetune.protocol.epochs": 1})
        finetune(config.finetune, folder.final / "none")
    written = [path.read_bytes() for path in (tmp_path / "sweep").rglob("*") if path.is_file()]
    assert sum(b"postgresql" in content for content in written) == 2
    assert not any(b"hunter2" in content for content in written)


def test_what_finetuning_would_refuse_is_refused_before_any_pretraining(make_sweep: Any) -> None:
    config = make_sweep(final_seeds=1)
    own = {"pretrain.data.shards": [config.finetune.data.shards], "pretrain.task": "future", "pretrain.task.context": 2}
    refused: list[tuple[dict[str, Any], str]] = [
        (own | {"pretrain.sampling.frame_size": 64}, "No test record may be among the records that this network was"),
        ({"finetune.data.records": 5}, "Every split needs records"),
        ({"finetune.freeze_blocks": 99}, "number of frozen blocks must lie between"),
        ({"finetune.protocol.batch_size": 1, "finetune.data.seconds": 0.1}, "Batch normalisation must see"),
    ]
    _resolved(config)
    for values, words in refused:
        with pytest.raises(EcgrayError, match=words):
            _resolved(with_values(config, values))


@pytest.mark.parametrize(
    ("space", "word"),
    [
        ("weimann2021_pretraining", "--pretrain.model.depth=34"),
        ("weimann2021_pretraining", "--pretrain.sampling.frame-size"),
        ("weimann2021_pretraining", "--pretrain.task.window-samples"),
        ("weimann2021_finetuning", "--finetune.objective.gamma"),
        ("weimann2021_finetuning", "--finetune.model.width"),
        ("weimann2021_finetuning", "--finetune.protocol.seeds"),
        ("weimann2021_finetuning", "--finetune.pretrained"),
    ],
)
def test_words_that_would_change_nothing(space: str, word: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["sweep", space, "--out", str(tmp_path), word, *([] if "=" in word else ["4"])]) == 2
    assert f"itself, got {word.partition('=')[0]}; leave it out" in capsys.readouterr().err


def test_no_training_records_is_a_share_too(make_sweep: Any) -> None:
    with pytest.raises(EcgrayError, match=r"train_fraction must be between 0 and 1, got 0\.0"):
        make_sweep(train_fraction=0.0).finetuning("run")
