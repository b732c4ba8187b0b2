"""The plan of a large run, against arithmetic done by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecgray.cli import main
from ecgray.errors import EcgrayError
from ecgray.models import MODELS, list_models
from ecgray.operations.capacity import ArchiveSize, Needs, Rates, measured_stream, needs_of
from ecgray.recipes import RECIPES
from ecgray.sampling.ray_data import BLOCKS_ALIVE
from ecgray.training.config import PretrainConfig

RATES = Rates(
    gpu_frames_per_s=3200,
    stream_frames_per_s=250_000,
    all_reduce_gb_per_s=10,
    storage_mb_per_s=2000,
    price_per_gpu_hour=2.5,
)
STREAM = Path(__file__).parents[2] / "benchmarks" / "results" / "stream.json"


def recipe(name: str, *, lanes: int = 64, batch: int = 2048) -> PretrainConfig:
    config = RECIPES[f"weimann2021_{name}"].make()
    assert isinstance(config, PretrainConfig)
    sampling, training = replace(config.sampling, lanes=lanes), replace(config.training, batch_size=batch)
    return replace(config, sampling=sampling, training=training)


def needs(config: PretrainConfig, rates: Rates = RATES, gpus: int = 64, gpus_per_node: int = 8) -> Needs:
    return needs_of(config, rates, gpus=gpus, gpus_per_node=gpus_per_node)


def test_by_hand() -> None:
    """64 GPUs on 8 nodes, batch 2,048: 32 frames a GPU, 256 a node."""
    n = needs(recipe("beat"))
    assert n.archive_bytes == 541_794 * 1_048_577 * 2 == 1_136_225_454_276
    assert n.shards == 8877  # 1,136,225.45 MB / 128
    assert (n.steps, n.frames) == (20_900, 42_803_200)  # (11,000 - 550) x 4,096 / 2,048: 42.8 million (W11)
    assert n.passes == 32  # 4,096 / 128
    # ResNet-18 with one lead; a head of 5 classes instead of 4 has 513 parameters more.
    (listed,) = [m for m in list_models() if m["name"] == "resnet18" and m["leads"] == 1]
    assert n.parameters == int(listed["parameters"]) + 513 * (len(recipe("beat").task.classes) - 4)
    assert n.compute_s == pytest.approx(0.010)  # 32 / 3,200
    assert n.all_reduce_s == pytest.approx(2 * 63 / 64 * 4 * n.parameters / 10e9)
    assert n.stream_s == pytest.approx(0.000128)  # 32 / 250,000
    assert n.storage_s == pytest.approx(256 * (4096 + 131_072) / 2e9)  # 17.3 ms: a frame and a window each
    assert n.step_s == n.storage_s and n.limit == "the storage"
    assert n.frames_per_s == pytest.approx(2048 / n.storage_s)
    assert n.read_bytes_per_s == pytest.approx(2e9)  # all that the node can read
    assert n.validation_s == pytest.approx(11 * 70_400 / 64 / 3200)  # 10 x 2,000 steps, the end; 550 x 128 frames
    seconds = 20_900 * n.step_s + n.validation_s
    assert n.hours == pytest.approx(seconds / 3600)
    assert n.cost == pytest.approx(n.hours * 64 * 2.5)
    assert n.fetched_once_bytes_per_s == pytest.approx(1_136_225_454_276 / seconds)
    assert n.fetched_each_pass_bytes_per_s == pytest.approx(32 / 8 * 1_136_225_454_276 / seconds)
    assert n.bucket_hours == pytest.approx(1_136_225_454_276 / 2e9 / 3600)  # 568 s, more than the training takes
    assert n.object_store_bytes == 8 * BLOCKS_ALIVE * 192 * 32 * 4096  # 24 MiB / (32 frames of 4 KiB) = 192 steps


def test_what_limits() -> None:
    quick_disks = replace(RATES, storage_mb_per_s=1e6)
    n = needs(recipe("beat"), quick_disks)
    assert n.limit == "the GPUs" and n.step_s == pytest.approx(n.compute_s + n.all_reduce_s)
    assert n.all_reduce_share == pytest.approx(n.all_reduce_s / (n.compute_s + n.all_reduce_s))
    assert needs(recipe("beat"), replace(quick_disks, all_reduce_gb_per_s=0.1)).limit == "the all-reduce"
    assert needs(recipe("beat"), replace(quick_disks, stream_frames_per_s=1000)).limit == "the stream"


def test_one_gpu_reduces_nothing() -> None:
    n = needs(recipe("beat", lanes=8), replace(RATES, all_reduce_gb_per_s=None, storage_mb_per_s=1e6), gpus=1)
    assert n.all_reduce_s == 0 and n.compute_s == pytest.approx(2048 / 3200)
    assert n.object_store_bytes == BLOCKS_ALIVE * 3 * 2048 * 4096  # 24 MiB / 8 MiB a step = 3 steps


def test_uneven_lanes_wait_for_the_fullest_worker() -> None:
    assert needs(recipe("beat", lanes=64), gpus=48).compute_s == pytest.approx(2 * 32 / 3200)


def test_future_prediction_reads_in_ten_places() -> None:
    """16 context frames side by side, a positive and 8 negatives, 512 samples each: 25,600 bytes in 10 places."""
    n = needs(recipe("future"))
    assert n.storage_s == pytest.approx(256 * (25 * 1024 + 10 * 131_072) / 2e9)


def test_longer_runs_and_other_networks() -> None:
    config = recipe("beat")
    n = needs(replace(config, training=replace(config.training, steps=1000), model=MODELS["resnet34"]))
    assert n.steps == 1000 and n.parameters > needs(config).parameters
    assert n.passes == pytest.approx(1000 * 2048 / (10_450 * 128))


HOLTER = ArchiveSize(patients=20_000, records=25_000, hours=100_000, fs=500, leads=3)


def test_another_archive_by_hand() -> None:
    """20,000 patients with 5 hours each, three leads at 500 Hz; 64 GPUs on 8 nodes, batch 2,048."""
    n = needs_of(recipe("beat"), RATES, HOLTER, gpus=64, gpus_per_node=8)
    assert n.archive_bytes == 100_000 * 3600 * 500 * 3 * 2 == 1_080_000_000_000
    assert n.shards == 8438  # 1,080,000 MB / 128 = 8,437.5
    assert n.steps == 38_000  # (20,000 - 1,000) x 4,096 / 2,048
    assert n.passes == 32 and n.frames == 77_824_000
    # The first convolution sees two leads more: 64 channels, 7 samples wide.
    assert n.parameters == needs(recipe("beat")).parameters + 2 * 64 * 7
    assert n.storage_s == pytest.approx(256 * 3 * (4096 + 131_072) / 2e9)  # each lead lies in a place of its own
    assert n.validation_s == pytest.approx(19 * 128_000 / 64 / 3200)  # 38,000 / 2,000 times, 1,000 x 128 frames
    assert n.object_store_bytes == 8 * BLOCKS_ALIVE * 64 * 32 * 3 * 4096  # 24 MiB / (32 x 12 KiB) = 64 steps
    few = replace(HOLTER, patients=2, records=2)
    with pytest.raises(EcgrayError, match="both sides, got 2 patients"):
        needs_of(recipe("beat"), RATES, few, gpus=64, gpus_per_node=8)
    # A record lies in one shard whole.
    assert (
        needs_of(recipe("beat"), RATES, replace(HOLTER, records=20_000, hours=1e7), gpus=8, gpus_per_node=8).shards
        == 20_000
    )


GIVEN = (
    "--gpu-frames-per-s 3200 --stream-frames-per-s 250000 --all-reduce-gb-per-s 10 --storage-mb-per-s 2000 "
    "--price-per-gpu-hour 2.5 --gpus 8 --gpus-per-node 8 --sampling.val-fraction 0.25"
)
BY_HAND = "--archive.patients 20000 --archive.records 25000 --archive.hours 100000 --archive.fs 500 --archive.leads 3"


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], str]:
    """What ``ecgray plan`` says as JSON, and the line that it prints about the archive."""
    command = ["plan", "weimann2021_beat", *GIVEN.split(), *words]
    assert main([*command, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("archive")]
    return values, line.removeprefix("archive").strip()


def test_shard_sets_are_planned_for(small_archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """12 patients with three records each: 9 of them train, 3 are held out."""
    manifest = json.loads((small_archive / "manifest.json").read_text())
    for words in (("--data", str(small_archive)), ("--data.shards", str(small_archive))):
        values, line = planned(capsys, *words)
        assert values["archive"]["name"] == str(small_archive)
        assert values["archive_bytes"] == manifest["samples"] * 2
        assert values["steps"] == 9 * 4096 // 32 and values["validation_s"] == pytest.approx(3 * 128 / 8 / 3200)
        assert line == f"{small_archive}: 12 patients, 36 records, {manifest['hours']:.1f} hours, 250 Hz, 1 lead"
    assert "must hold" in refused(capsys, *GIVEN.split(), "--data", str(small_archive.parent))


def test_an_archive_is_told_whole_and_alone(small_archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values, line = planned(capsys, *BY_HAND.split())
    assert line == "given: 20,000 patients, 25,000 records, 100,000.0 hours, 500 Hz, 3 leads"
    assert values["archive"] == {
        "name": "given",
        "patients": 20_000,
        "records": 25_000,
        "hours": 100_000.0,
        "fs": 500.0,
        "leads": 3,
    }
    assert values["steps"] == 15_000 * 4096 // 32
    assert planned(capsys)[1].startswith("Icentia11K: 11,000 patients, 541,794 records, 631,236.4 hours, 250 Hz")
    assert "got nothing for --archive.fs, --archive.leads; give" in refused(
        capsys, *GIVEN.split(), *BY_HAND.split()[:6]
    )
    assert "one archive" in refused(capsys, *GIVEN.split(), *BY_HAND.split(), "--data", str(small_archive))
    assert "at least the 20000 patients, got 3" in refused(
        capsys, *GIVEN.split(), *BY_HAND.split(), "--archive.records=3"
    )
    assert "archive.hours must be a positive" in refused(
        capsys, *GIVEN.split(), *BY_HAND.split(), "--archive.hours", "nan"
    )


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plan", "weimann2021_beat", "--gpus-per-node", "8", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_lacks_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shape = ("--gpus", "64", "--sampling.lanes", "64", "--training.batch-size", "2048")
    line = refused(capsys, *shape, "--price-per-gpu-hour", "2")
    for name in ("gpu-frames-per-s", "stream-frames-per-s", "all-reduce-gb-per-s", "storage-mb-per-s"):
        assert f"--{name} (" in line
    assert "--price" not in line and "--bench with the benchmarks/results/stream.json" in line
    assert "ecgray doctor" in line
    assert "none must be what make bench wrote" in refused(capsys, *shape, "--bench", "none")
    assert "--sampling.lanes 64" in refused(capsys, "--gpus", "64")
    assert "multiple" in refused(capsys, "--gpus", "8", "--training.batch-size", "36")
    (tmp_path / "bench.json").write_text('{"rows": 3}')
    assert "must be what make bench wrote" in refused(capsys, *shape, "--bench", "bench.json")
    (tmp_path / "bench.json").write_text('{"rows": []}')
    assert "--stream-frames-per-s" in refused(capsys, *shape, "--bench", "bench.json")
    given = ("--gpu-frames-per-s", "-1", "--stream-frames-per-s", "1", "--all-reduce-gb-per-s", "1")
    line = refused(capsys, *shape, *given, "--storage-mb-per-s", "1", "--price-per-gpu-hour", "2")
    assert "--gpu-frames-per-s must be a positive number" in line


def test_the_stream_as_it_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(STREAM.read_text())["rows"]
    place = {"place": "worker", "setting": "2048", "method": "ray"}
    (measured,) = [row["sustained"]["median"] for row in rows if place.items() <= row.items()]
    assert measured_stream(STREAM, recipe("beat")) == measured
    place["setting"], beat = "12 x 5000", recipe("beat")
    (measured_leads,) = [row["sustained"]["median"] for row in rows if place.items() <= row.items()]
    long = replace(beat, sampling=replace(beat.sampling, frame_size=5000))
    assert measured_stream(STREAM, long, leads=12) == measured_leads
    words = ["plan", "weimann2021_beat", "--gpus", "8", "--gpus-per-node", "8", "--bench", str(STREAM), "--json"]
    words += ["--gpu-frames-per-s", "3200", "--all-reduce-gb-per-s", "10", "--storage-mb-per-s", "2000"]
    assert main([*words, "--price-per-gpu-hour", "2.5"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["rates"]["stream_frames_per_s"] == measured and values["stream_s"] == pytest.approx(4 / measured)
    assert main([*[word for word in words if word != "--json"], "--price-per-gpu-hour", "2.5"]) == 0
    printed = capsys.readouterr().out
    assert str(STREAM) in printed and "limited by" in printed
