"""What is read, and how far: each target reads mutated files as far as a user's command would use them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import material
import mutate
import numpy as np
import torch

import ecgray
from ecgray.databases import CinC2017, Database, Folder, MitBih
from ecgray.databases.record import Record, RecordRefused
from ecgray.databases.synthetic import Synthetic
from ecgray.databases.walk import walk
from ecgray.errors import EcgrayError
from ecgray.finetuning.folder import read_config as read_finetuning
from ecgray.finetuning.labelled import open_labelled
from ecgray.finetuning.predict import predict
from ecgray.finetuning.pretrained import open_pretrained
from ecgray.finetuning.seed_run import STATE
from ecgray.finetuning.seed_state import load_state
from ecgray.models.classifier import Classifier
from ecgray.report.read_runs import read_run
from ecgray.report.tables import make_tables
from ecgray.sampling.plan import SamplingConfig, make_plan
from ecgray.sampling.stream import open_stream
from ecgray.shards.archive import Archive, open_archive
from ecgray.shards.ingest import ingest
from ecgray.shards.inspect import read_refused, summary
from ecgray.shards.prepare import Target as Kind
from ecgray.shards.prepare import prepare
from ecgray.tasks import TASKS
from ecgray.tasks.label import label_frames, read_frames
from ecgray.training.checkpoint import load_optimiser, load_rank, newest_checkpoint, read_loop_state
from ecgray.training.model_folder import build_network, load_tensors, load_weights, read_json
from ecgray.training.run import RunFolder, read_config

Rng = np.random.Generator


@dataclass(frozen=True)
class Target:
    """``files``: path below the root -> mutator; one of them is changed per input (seldom two). ``read(root, rng)``
    returns when everything could be used, and raises RecordRefused or EcgrayError otherwise. ``mend(root)`` makes
    what vouches for the files (a manifest, a marker) agree with them, in half of the inputs. ``scratch``: folders that
    reading writes into. ``share``: how often, relative to the others."""

    name: str
    files: dict[str, mutate.Mutator]
    read: Callable[[Path, Rng], None]
    mend: Callable[[Path], None] | None = None
    scratch: tuple[str, ...] = ()
    share: float = 1.0


def whole_record(record: Record) -> None:
    """What every record promises; ``prepare`` refuses one that breaks it, which would be the reader's fault."""
    try:
        prepare(record, Kind(fs=record.fs, leads=record.leads))
    except RecordRefused as reason:
        raise AssertionError(f"the reader gave a record that is none: {reason}") from None


def read_database(folder: str, *databases: Database) -> Callable[[Path, Rng], None]:
    def read(root: Path, rng: Rng) -> None:
        database = databases[int(rng.integers(len(databases)))]
        found, refusal = database.find(root / folder), None
        for reference in found[:3]:
            try:
                whole_record(database.read(reference))
            except RecordRefused as reason:
                refusal = reason
        if refusal is not None:
            raise refusal

    return read


def read_table(folder: str, *databases: Database) -> Callable[[Path, Rng], None]:
    def read(root: Path, rng: Rng) -> None:
        for reference in databases[int(rng.integers(len(databases)))].find(root / folder):
            assert all(isinstance(label, str) for label in reference.labels)

    return read


def name_kinds(root: Path, rng: Rng) -> None:
    """As an ingest that leaves files of other kinds out."""
    listing = walk(root / "kinds")
    assert not listing.headers and sum(count for _, count in listing.kinds) <= 2
    assert all("\n" not in line for line in listing.remarks())


def read_shards(root: Path, rng: Rng) -> None:
    path = root / "shards"
    if rng.random() < 0.3:
        summary([path])
    archive = open_archive([path], verify="sizes" if rng.random() < 0.7 else "hashes")
    use_archive(archive, rng)


def use_archive(archive: Archive, rng: Rng) -> None:
    for record in range(min(len(archive), 40)):
        span = min(int(archive.samples[record]), 500)
        at = np.array([0, archive.samples[record] - span])
        for start in at:
            assert archive.cut([record], [start], span).shape == (1, len(archive.leads), span)
        archive.signal_mv(record)
        assert len(archive.beats(record)[0]) == len(archive.beats(record)[1])
        archive.rhythms(record)
    records = np.arange(len(archive))
    assert len(archive.record_id) == len(archive.signal_hash) == len(archive.labels) == len(archive.database)
    assert len(archive.attributes) == len(archive)
    archive.provenance(records, records * 0)
    task = TASKS[str(rng.choice(["beat", "rhythm", "heart_rate"]))](rule=str(rng.choice(["paper", "code"])))
    task.targets(records, records * 0, 256, archive)
    sampling = SamplingConfig(frame_size=256, frames_per_visit=16, pool_patients=3, val_fraction=0.25)
    plan = make_plan(archive, sampling, task, 8)
    plan.validation()
    for batch in open_stream(archive, plan, task, backend="local", first_step=0, last_step=2):
        assert batch.signal.dtype == np.int16


def read_labelled(root: Path, rng: Rng) -> None:
    open_labelled(root / "labelled")


def read_refusals(root: Path, rng: Rng) -> None:
    for row in read_refused(root / "shards" / "refused.csv"):
        assert isinstance(row["record"], str) and isinstance(row["reason"], str)


def vouch_for_shards(folder: str) -> Callable[[Path], None]:
    """The manifest says of each file what the file is: as of a shard set that somebody else has made."""

    def mend(root: Path) -> None:
        manifest = json.loads((root / folder / "manifest.json").read_bytes())
        for name, entry in manifest["files"].items():
            content = (root / folder / name).read_bytes()
            entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        (root / folder / "manifest.json").write_text(json.dumps(manifest))

    return mend


def vouch_for_checkpoint(step: int) -> Callable[[Path], None]:
    def mend(root: Path) -> None:
        folder = root / "pretraining" / "checkpoints" / f"step-{step:06d}"
        marker = json.loads((folder / "complete").read_bytes())
        for name, entry in marker["files"].items():
            content = (folder / name).read_bytes()
            entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        (folder / "complete").write_text(json.dumps(marker))

    return mend


@cache
def open_frames(root: Path) -> Archive:
    return open_archive([root / "shards"])


def read_frames_csv(root: Path, rng: Rng) -> None:
    frames = read_frames(root / "frames" / "FRAMES.csv")
    label_frames(open_frames(root), TASKS["heart_rate"](), 256, frames)


def resume_checkpoint(root: Path, rng: Rng) -> None:
    """As the training loop does at --resume."""
    run = RunFolder(root / "pretraining")
    newest = newest_checkpoint(run.checkpoints)
    if newest is None:
        return
    state = read_loop_state(newest)
    assert isinstance(state.step, int) and state.step >= 0
    network, optimiser = fresh_network(root)
    load_weights(network, load_tensors(newest / "model.safetensors"), newest / "model.safetensors")
    load_optimiser(newest / "optimiser.safetensors", network, optimiser)
    load_rank(newest, 0, network)
    network(torch.zeros(2, 1, 256)).sum().backward()
    optimiser.step()


def fresh_network(root: Path) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    config = material.pretraining(root / "shards")
    network = build_network(config.model, 1, len(config.task.classes), config.task, 256)
    return network, torch.optim.AdamW(network.parameters(), fused=True)


def load_run(root: Path, rng: Rng) -> None:
    model = ecgray.load(root / "pretraining")
    if (model.description.length_samples or 0) < 10_000:
        assert model(torch.zeros(1, len(model.leads), 512)).ndim == 2
    open_pretrained(root / "pretraining")


def load_seed(root: Path, rng: Rng) -> None:
    model = ecgray.load(root / "finetuning", seed=0 if rng.random() < 0.5 else None)
    if (length := model.description.length_samples or 512) < 10_000:
        assert model(torch.zeros(1, len(model.leads), min(length, 512))).ndim == 2


def predict_recordings(root: Path, rng: Rng) -> None:
    """As somebody does with files that no shard set was made of."""
    for name, lead in (("wfdb16/r", "V5"), ("cinc2017/training2017/A00405", None)):
        table = predict(root / "finetuning", [root / name], root / "predicted" / f"{lead}.csv", lead=lead)
        assert table.filter(like="probability_").sum(axis=1).round(3).eq(1).all()


def read_run_files(root: Path, rng: Rng) -> None:
    run = RunFolder(root / "pretraining")
    read_config(run.path)
    read_json(run.environment)
    run.rewind_metrics(2)


def resume_seed(root: Path, rng: Rng) -> None:
    folder = root / "stopped"
    config = read_finetuning(folder)
    classes = 4
    network = Classifier(config.model.encoder(1), classes) if config.model.width < 64 else None
    if network is None:
        raise EcgrayError("a network of another size")
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    history, best = load_state(folder / "seeds" / "seed-00" / STATE, network, optimiser)
    assert isinstance(history.epoch, int)
    network.load_state_dict(best)


def read_report(folder: str) -> Callable[[Path, Rng], None]:
    def read(root: Path, rng: Rng) -> None:
        make_tables([read_run(root / folder)])

    return read


def resume_ingest(root: Path, rng: Rng) -> None:
    ingest(CinC2017(), root / "cinc2017", root / "begun", workers=0, progress=False, shard_mb=0.05)
    archive = open_archive([root / "begun"], verify="hashes")
    assert len(archive) == 13


def start_ingest(root: Path, rng: Rng) -> None:
    """Whatever one record holds, the others arrive."""
    out = root / "begun"
    shutil.rmtree(out)
    manifest = ingest(CinC2017(), root / "cinc2017", out, workers=0, progress=False, shard_mb=0.05)
    assert manifest.records + manifest.refused == 13 and manifest.records >= 12
    if manifest.refused:
        (row,) = read_refused(out / "refused.csv")
        raise RecordRefused(row["reason"])


SHARDS = ("shard-00000", "shard-00001")
CHECKPOINT = "pretraining/checkpoints/step-000004/"
BEST = "pretraining/checkpoints/step-000002/"
TARGETS = (
    *(
        Target(
            f"{kind} header",
            {f"{kind}/r.hea": mutate.text},
            read_database(kind, Folder(), MitBih(), Folder(lead=("V5",))),
        )
        for kind in ("wfdb16", "wfdb212")
    ),
    *(
        Target(f"{kind} header", {f"{kind}/r.hea": mutate.text}, read_database(kind, Folder()), share=0.3)
        for kind in ("wfdb80", "wfdb24", "wfdb516")
    ),
    Target("cinc2017 header", {"cinc2017/training2017/A00405.hea": mutate.text}, read_database("cinc2017", CinC2017())),
    Target("signal 16", {"wfdb16/r.dat": mutate.random_bytes}, read_database("wfdb16", Folder(), MitBih())),
    Target("signal 212", {"wfdb212/102.dat": mutate.random_bytes}, read_database("wfdb212", Folder())),
    Target(
        "signal 16+24", {"cinc2017/training2017/A00405.mat": mutate.random_bytes}, read_database("cinc2017", CinC2017())
    ),
    Target("signal 516", {"wfdb516/r.dat": mutate.random_bytes}, read_database("wfdb516", Folder()), share=0.3),
    Target("annotations", {"wfdb16/r.atr": mutate.annotations}, read_database("wfdb16", Folder(), MitBih()), share=2),
    Target(
        "annotations 212", {"wfdb212/r.atr": mutate.annotations}, read_database("wfdb212", Folder(), MitBih(lead="V5"))
    ),
    Target(
        "files of other kinds",
        {"kinds/a.edf": mutate.random_bytes, "kinds/a.xml": mutate.text},
        name_kinds,
        share=0.2,
    ),
    Target("labels.csv", {"wfdb16/labels.csv": mutate.text}, read_table("wfdb16", Folder())),
    Target(
        "REFERENCE.csv, RECORDS",
        {f"cinc2017/training2017/{name}": mutate.text for name in ("REFERENCE-v3.csv", "REFERENCE.csv", "RECORDS")},
        read_table("cinc2017", CinC2017(), CinC2017(labels="v2"), Synthetic()),
    ),
    Target("FRAMES.csv", {"frames/FRAMES.csv": mutate.text}, read_frames_csv),
    Target("refused.csv", {"shards/refused.csv": mutate.text}, read_refusals, share=0.5),
    Target("manifest.json", {"shards/manifest.json": mutate.json_text}, read_shards),
    Target("records.parquet", {"shards/records.parquet": mutate.parquet}, read_shards, vouch_for_shards("shards")),
    Target(
        "labelled records",
        {"labelled/records.parquet": mutate.parquet},
        read_labelled,
        vouch_for_shards("labelled"),
        share=0.5,
    ),
    Target(
        "shard arrays",
        {
            f"shards/{shard}/{name}.npy": mutate.npy
            for shard in SHARDS
            for name in ("signal", "beats", "beat_class", "rhythms")
        },
        read_shards,
        vouch_for_shards("shards"),
        share=2,
    ),
    Target(
        "stopped ingest",
        {
            "begun/.ingest/plan.json": mutate.random_bytes,
            **{f"begun/.ingest/{shard}.ledger": mutate.random_bytes for shard in SHARDS},
        },
        resume_ingest,
        scratch=("begun",),
        share=0.3,
    ),
    Target(
        "ingest",
        {"cinc2017/training2017/A00405.hea": mutate.text, "cinc2017/training2017/A00405.mat": mutate.random_bytes},
        start_ingest,
        scratch=("begun",),
        share=0.2,
    ),
    Target(
        "checkpoint",
        {
            f"{CHECKPOINT}{name}": mutate.safetensors if name.endswith("safetensors") else mutate.json_text
            for name in ("model.safetensors", "optimiser.safetensors", "rank-0.safetensors", "loop.json", "complete")
        },
        resume_checkpoint,
        vouch_for_checkpoint(4),
    ),
    Target("model.json", {f"{BEST}model.json": mutate.json_text}, load_run, vouch_for_checkpoint(2)),
    Target(
        "model.safetensors",
        {f"{BEST}model.safetensors": mutate.safetensors},
        load_run,
        vouch_for_checkpoint(2),
        share=0.5,
    ),
    Target(
        "finetuned seed",
        {
            "finetuning/seeds/seed-00/model.json": mutate.json_text,
            "finetuning/seeds/seed-00/model.safetensors": mutate.safetensors,
            "finetuning/seeds/seed-00/complete": mutate.json_text,
        },
        load_seed,
    ),
    Target(
        "predicted recordings",
        {
            f"{name}.{suffix}": mutate.text if suffix == "hea" else mutate.random_bytes
            for name, signal in (("wfdb16/r", "dat"), ("cinc2017/training2017/A00405", "mat"))
            for suffix in ("hea", signal)
        },
        predict_recordings,
        scratch=("predicted",),
        share=0.5,
    ),
    Target(
        "run files",
        {
            "pretraining/config.json": mutate.json_text,
            "pretraining/environment.json": mutate.json_text,
            "pretraining/metrics.jsonl": mutate.json_lines,
        },
        read_run_files,
        share=1.5,
    ),
    Target(
        "stopped seed",
        {f"stopped/seeds/seed-00/{STATE}": mutate.safetensors, "stopped/config.json": mutate.json_text},
        resume_seed,
    ),
    Target(
        "predictions, splits",
        {
            "finetuning/seeds/seed-00/predictions.parquet": mutate.parquet,
            "finetuning/splits.parquet": mutate.parquet,
            "finetuning/config.json": mutate.json_text,
            "finetuning/environment.json": mutate.json_text,
            "finetuning/seeds/seed-00/metrics.jsonl": mutate.json_lines,
        },
        read_report("finetuning"),
    ),
    Target(
        "evaluation",
        {"evaluation/predictions.parquet": mutate.parquet, "evaluation/evaluation.json": mutate.json_text},
        read_report("evaluation"),
        share=0.5,
    ),
)
