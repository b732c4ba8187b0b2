"""One seed of a finetuning run: train, choose the epoch on validation, then open the test once.

All state is in the seed's folder after every epoch: a seed killed anywhere and started again ends with the same bits
(CPU, same number of threads). Random numbers of an epoch depend on seed and epoch alone.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from ecgray.errors import EcgrayError
from ecgray.evaluation.metrics import confusion, macro_f1
from ecgray.finetuning.config import FinetuneConfig
from ecgray.finetuning.folder import (
    seed_folder,
    write_json_atomically,
    write_lines_atomically,
    write_parquet_atomically,
)
from ecgray.finetuning.seed_state import History, load_state, save_state
from ecgray.finetuning.stored import read_predictions
from ecgray.models.classifier import Classifier
from ecgray.models.transfer import freeze_blocks, load_encoder
from ecgray.progress import Progress
from ecgray.shards.storage import join, remove
from ecgray.shards.working import push, renew, working_folder
from ecgray.training.distributed import best_device
from ecgray.training.loaded import model_folder
from ecgray.training.model_folder import (
    DESCRIPTION,
    WEIGHTS,
    ModelDescription,
    load_tensors,
    read_json,
    read_model,
    save_model,
)
from ecgray.training.threads import threads

# The prepared array is shared between seeds and read-only; batches are copies of its rows.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

Signals = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

STATE, CHOSEN, PREDICTIONS, COMPLETE = "training.safetensors", "chosen.json", "predictions.parquet", "complete"
_TRAINING_SHARE = 0.99
"""Of an epoch, as far as its progress goes; the rest is validation."""
PUBLISH_S = 60.0
"""How often the state of a seed goes to the run's URL: what a lost machine can cost."""


@dataclass(frozen=True, kw_only=True)
class SeedJob:
    """All that one seed needs besides the signals; small, so that it can be sent anywhere.

    splits: this seed's rows of splits.parquet; train, val: rows (n,) of the pool's signals with class indices
    ``train_labels``, ``val_labels``; pretrained: folder (or URL) of the pretrained network, None for random weights;
    url: where ``folder`` is published, None if it is not; threads: per worker, None: torch's choice,
    within the cores that the process may use; progress: in epochs, where it is shown by the process that does the work.
    """

    config: FinetuneConfig
    description: ModelDescription
    folder: Path
    seed: int
    splits: pd.DataFrame
    train: Indices
    train_labels: Indices
    val: Indices
    val_labels: Indices
    pretrained: Path | str | None
    url: str | None = None
    threads: int | None = None
    progress: Progress | None = None


def is_chosen(folder: Path) -> bool:
    """Whether the seed has trained and its epoch is chosen."""
    return (folder / CHOSEN).is_file()


def is_complete(folder: Path) -> bool:
    return (folder / COMPLETE).is_file()


def choose_epoch(job: SeedJob, signals: Signals) -> None:
    """Train on ``signals`` (records, leads, samples) until the protocol ends it; keep the best epoch's network.

    Takes up what an earlier start left. Writes model, metrics and the predictions on validation; sees no test record.
    """
    job = _here(job)
    if is_chosen(job.folder):
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    SeedTraining(job, signals).run()
    (job.folder / STATE).unlink(missing_ok=True)


def open_test(job: SeedJob, signals: Signals) -> None:
    """Predict the test records with the chosen network, once, and complete the seed.

    signals: (test records, leads, samples) in the order of the test rows of ``job.splits``; none: no test.
    Raises AssertionError before the epoch is chosen.
    """
    job = _here(job)
    if is_complete(job.folder):
        return
    assert is_chosen(job.folder), "test records stay closed until the epoch is chosen"
    with threads(job.threads):
        parts = [read_predictions(job.folder / PREDICTIONS).query("split == 'val'")]
        if len(signals):
            network, description = read_model(job.folder)
            network.to(best_device())
            probability = predict(network, signals, np.arange(len(signals)), job.config)
            rows = job.splits[job.splits["split"] == "test"]
            parts.append(prediction_table(rows, probability, description.classes))
    write_parquet_atomically(job.folder / PREDICTIONS, pd.concat(parts, ignore_index=True))
    (job.folder / STATE).unlink(missing_ok=True)
    write_json_atomically(job.folder / COMPLETE, read_json(job.folder / CHOSEN))
    _publish(job, PREDICTIONS, COMPLETE)
    if job.url is not None:
        remove(join(job.url, STATE))


def _here(job: SeedJob) -> SeedJob:
    """The job on this machine: of a run at a URL, its folder is the working copy here, as published so far."""
    if job.url is None:
        return job
    run, name = job.url.removesuffix(f"/seeds/{job.folder.name}"), job.folder.name
    folder = seed_folder(working_folder(run), job.seed).with_name(name)
    renew(job.url, folder, lambda _: True)
    return replace(job, folder=folder)


def _publish(job: SeedJob, *names: str) -> None:
    if job.url is not None:
        push(job.folder, job.url, names)


def initial_network(job: SeedJob) -> nn.Module:
    """The encoder with fresh weights of this seed, or the pretrained ones, and a new head.

    The head of a seed is the same with and without pretraining.
    """
    torch.manual_seed(job.seed)
    encoder = job.config.model.encoder(len(job.description.leads))
    network = Classifier(encoder, len(job.description.classes))
    if job.pretrained is not None:
        load_encoder(encoder, load_tensors(model_folder(job.pretrained) / WEIGHTS))
    freeze_blocks(encoder, job.config.freeze_blocks)
    return network


@torch.inference_mode()
def predict(
    network: nn.Module, signals: Signals, rows: Indices, config: FinetuneConfig, progress: Progress | None = None
) -> npt.NDArray[np.float32]:
    """(len(rows), classes) probabilities in eval mode; the network's mode is put back. ``progress``: in rows."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    parts = []
    for first in range(0, len(rows), 2 * config.protocol.batch_size):
        batch = torch.from_numpy(signals[rows[first : first + 2 * config.protocol.batch_size]]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = network(batch)
        parts.append(logits.float().softmax(1).cpu().numpy())
        if progress is not None:
            progress.to(min(first + 2 * config.protocol.batch_size, len(rows)))
    network.train(training)
    return np.concatenate(parts)


def prediction_table(
    rows: pd.DataFrame, probability: npt.NDArray[np.float32], classes: tuple[str, ...]
) -> pd.DataFrame:
    """Columns seed, split, database, record, patient, label, predicted, probability_<class>."""
    table = rows[["seed", "split", "database", "record", "patient", "label"]].reset_index(drop=True)
    table["predicted"] = np.asarray(classes, object)[probability.argmax(1)]
    for index, name in enumerate(classes):
        table[f"probability_{name}"] = probability[:, index]
    return table


class SeedTraining:
    """A seed in progress."""

    def __init__(self, job: SeedJob, signals: Signals) -> None:
        self._job, self._signals, self._device = job, signals, best_device()
        self._history = History()
        self._best: dict[str, Tensor] = {}
        self._progress = job.progress
        self._published = time.monotonic()

    def run(self) -> None:
        protocol = self._job.config.protocol
        with threads(self._job.threads):
            self._start()
            if self._progress is not None and self._history.epoch:
                self._progress.skip(self._history.epoch)
            self._show()
            while not self._finished():
                self._epoch()
                best = self._best if self._history.best_epoch != self._history.epoch else {}
                save_state(self._job.folder / STATE, self._network, self._optimiser, self._history, best)
                with open(self._job.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(self._history.epochs[-1]) + "\n")
                if time.monotonic() - self._published >= PUBLISH_S:
                    _publish(self._job, STATE)
                    self._published = time.monotonic()
                self._show()
            if self._progress is not None:
                self._progress.skip(protocol.epochs - self._history.epoch)
            self._choose()

    def _show(self, seen: int = 0, loss_sum: Tensor | None = None) -> None:
        """Where the seed is: its epochs, and the records ``seen`` in the next one, whose loss is told where a look at
        it does not make a device wait."""
        progress, history = self._progress, self._history
        if progress is None:
            return
        if progress.due():
            best = f"best F1 {history.best_score:.3f} (epoch {history.best_epoch})" if history.best_epoch else ""
            progress.say(best=best)
            if loss_sum is not None and self._device.type == "cpu":
                progress.say(loss=f"loss {loss_sum.item() / seen:.3f}")
            elif history.epochs:
                progress.say(loss=f"loss {history.epochs[-1]['train_loss']:.3f}")
        progress.to(history.epoch + seen / len(self._job.train) * _TRAINING_SHARE)

    def _start(self) -> None:
        job = self._job
        self._network = initial_network(job).to(self._device)
        self._optimiser = job.config.optimiser.make(p for p in self._network.parameters() if p.requires_grad)
        histogram = np.bincount(job.train_labels, minlength=len(job.description.classes))
        weights = job.config.objective.weights(histogram)
        self._weights = None if weights is None else weights.to(self._device)
        if (job.folder / STATE).is_file():
            self._history, self._best = load_state(job.folder / STATE, self._network, self._optimiser)
        write_lines_atomically(job.folder / "metrics.jsonl", self._history.epochs)

    def _finished(self) -> bool:
        protocol, history = self._job.config.protocol, self._history
        return history.epoch >= protocol.epochs or history.epoch - history.monitor_epoch >= protocol.patience

    def _epoch(self) -> None:
        job, history, clock = self._job, self._history, time.monotonic()
        epoch = history.epoch + 1
        torch.manual_seed(int(np.random.SeedSequence([job.seed, epoch]).generate_state(1)[0]))
        order = np.random.default_rng([job.seed, epoch]).permutation(len(job.train))
        loss, correct = self._train(order)
        probability = predict(self._network, self._signals, job.val, job.config)
        matrix = confusion(job.val_labels, probability.argmax(1), len(job.description.classes))
        true = probability[np.arange(len(job.val)), job.val_labels]
        row = {
            "epoch": epoch,
            "train_loss": loss / len(order),
            "train_accuracy": correct / len(order),
            "val_loss": float(-np.log(np.maximum(true, 1e-12)).mean()),
            "val_macro_f1": float(macro_f1(matrix)),
            "seconds": round(time.monotonic() - clock, 3),
        }
        if not (math.isfinite(row["train_loss"]) and math.isfinite(row["val_loss"])):
            raise EcgrayError(
                f"The loss must stay finite, got {row['train_loss']} in training and {row['val_loss']} in validation, "
                f"epoch {epoch} of seed {job.seed}; lower optimiser.learning_rate or set optimiser.clip_norm."
            )
        history.epoch = epoch
        history.epochs.append(row)
        monitored = -row["train_accuracy"] if job.config.protocol.monitor == "train_accuracy" else row["val_loss"]
        if monitored < history.monitor_best:
            history.monitor_best, history.monitor_epoch = monitored, epoch
        if row["val_macro_f1"] > history.best_score:
            history.best_score, history.best_epoch = row["val_macro_f1"], epoch
            self._best = {name: tensor.detach().clone() for name, tensor in self._network.state_dict().items()}

    def _train(self, order: Indices) -> tuple[float, int]:
        """One pass over the training records; (sum of losses, records predicted right while training)."""
        job, size = self._job, self._job.config.protocol.batch_size
        self._network.train()
        loss_sum = torch.zeros((), device=self._device)
        correct = torch.zeros((), dtype=torch.int64, device=self._device)
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            signal = torch.from_numpy(self._signals[job.train[rows]]).to(self._device, non_blocking=True)
            target = torch.from_numpy(job.train_labels[rows]).to(self._device, non_blocking=True)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=job.config.precision == "bf16"):
                logits = self._network(signal)
            losses = job.config.objective.losses(logits, target, self._weights)
            self._optimiser.zero_grad(set_to_none=True)
            losses.mean().backward()
            if job.config.optimiser.clip_norm is not None:
                nn.utils.clip_grad_norm_(self._network.parameters(), job.config.optimiser.clip_norm)
            self._optimiser.step()
            loss_sum += losses.detach().sum()
            correct += (logits.detach().argmax(1) == target).sum()
            self._show(min(first + size, len(order)), loss_sum)
        return float(loss_sum), int(correct)

    def _choose(self) -> None:
        """The best epoch's network and its predictions on validation, then the marker."""
        job, history = self._job, self._history
        self._network.load_state_dict(self._best)
        save_model(job.folder, self._network, job.description)
        probability = predict(self._network, self._signals, job.val, job.config)
        rows = job.splits[job.splits["split"] == "val"]
        write_parquet_atomically(job.folder / PREDICTIONS, prediction_table(rows, probability, job.description.classes))
        values = {"seed": job.seed, "best_epoch": history.best_epoch, "val_macro_f1": history.best_score}
        write_json_atomically(job.folder / CHOSEN, values | {"epochs": history.epoch})
        _publish(job, WEIGHTS, DESCRIPTION, PREDICTIONS, "metrics.jsonl", CHOSEN)
