"""The training loop: one, for this process alone and for every worker of a cluster.

A global step takes ``batch_size`` frames over all workers; the gradient is that of their summed loss divided by the
frames that count, so it is the same however the lanes are shared out. All state is in the checkpoint: a run killed at
any step and resumed ends with the same bits as one that was not (CPU, same number of workers and threads).
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ecgray.errors import EcgrayError
from ecgray.progress import Progress
from ecgray.sampling.plan import Plan
from ecgray.sampling.stream import Batch, open_stream
from ecgray.shards.archive import Archive
from ecgray.shards.storage import StorageLost, join
from ecgray.shards.working import pull
from ecgray.tasks.base import IGNORED, Task
from ecgray.training.checkpoint import (
    LoopState,
    load_optimiser,
    load_rank,
    newest_checkpoint,
    prune_checkpoints,
    read_loop_state,
    save_optimiser,
    save_rank,
    step_folder,
    unmark_newer,
    write_checkpoint,
    write_loop_state,
)
from ecgray.training.config import PretrainConfig
from ecgray.training.distributed import Distributed
from ecgray.training.labels import label_histogram
from ecgray.training.model_folder import (
    WEIGHTS,
    ModelDescription,
    build_network,
    load_tensors,
    load_weights,
    save_model,
)
from ecgray.training.nonfinite import stop_on_nonfinite
from ecgray.training.outcome import Pace, Step
from ecgray.training.published import (
    FOLDER,
    fetch_checkpoint,
    newest_published,
    prune_published,
    publish_checkpoint,
    unmark_newer_published,
)
from ecgray.training.run import RunFolder, run_hash
from ecgray.training.standardise import Standardise, standardisation_of
from ecgray.training.stopping import RunEnded, RunStopped, StopRequest, ValidationAbandoned
from ecgray.training.validation import until_stopped, validate
from ecgray.training.watching import Watch

log = logging.getLogger(__name__)
LAG = {"cuda": 1}
"""Steps on a device that may be begun before the outcome of one is read: a GPU is not to wait for its host."""
Report = Callable[[dict[str, Any]], None]
Publish = Callable[[Mapping[str, float]], None]
"""Takes numbers to be watched, by the keys of ``ray_metrics.GAUGES``."""


def network_of(config: PretrainConfig, leads: int) -> nn.Module:
    """The network that a run trains, with fresh weights."""
    return build_network(config.model, leads, _classes_of(config.task), config.task, config.sampling.frame_size)


def last_step_of(config: PretrainConfig, plan: Plan) -> int:
    """Steps of the whole run."""
    return config.training.steps or plan.steps_per_budget


def _classes_of(task: Task) -> int:
    """Future prediction has no classes of its own: it chooses among the candidates."""
    return len(task.classes) or task.negatives + 1


class Training:
    """A run in progress on one rank."""

    def __init__(
        self,
        config: PretrainConfig,
        run: RunFolder,
        archive: Archive,
        plan: Plan,
        distributed: Distributed,
        *,
        backend: Literal["local", "ray"],
        stop: StopRequest,
        report: Report | None = None,
        publish: Publish | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._config, self._run, self._archive, self._plan = config, run, archive, plan
        self._distributed, self._backend, self._stop, self._report = distributed, backend, stop, report
        self._publish, self._progress = publish, progress
        self.last_step = last_step_of(config, plan)
        task, leads = config.task, len(archive.leads)
        self._classes = _classes_of(task)
        torch.manual_seed(config.training.seed)
        self.network = network_of(config, leads).to(distributed.device)
        mean_mv, sd_mv = standardisation_of(archive, config.data)
        hashes = tuple(manifest.hash for manifest in archive.manifests)
        self._description = ModelDescription(
            model=config.model,
            classes=task.classes,
            leads=archive.leads,
            fs=archive.fs,
            mean_mv=mean_mv,
            sd_mv=sd_mv,
            frame_size=config.sampling.frame_size,
            task=task,
            config_hash=run_hash(config, hashes),
            manifest_hashes=hashes,
        )
        self._standardise = Standardise(archive, mean_mv, sd_mv, distributed.device)
        # By one rank for all: it asks patients of every lane, whose shards the others may have no use for.
        self._histogram = label_histogram(archive, plan, task) if distributed.first else None
        counts = torch.zeros(self._classes, dtype=torch.int64, device=distributed.device)
        if self._histogram is not None:
            counts += torch.from_numpy(self._histogram.counts).to(distributed.device)
        weights = config.objective.weights(distributed.from_first(counts).cpu().numpy())
        self._weights = None if weights is None else weights.to(distributed.device)
        self._parameters = list(self.network.parameters())
        self.optimiser = config.optimiser.make(self._parameters)
        self._autocast = torch.autocast(
            distributed.device.type, torch.bfloat16, enabled=config.training.precision == "bf16"
        )
        if config.training.compile:
            self.network.compile()
        self._wrapped = distributed.wrap(self.network)
        self._wrapped.train()
        torch.manual_seed(config.training.seed + distributed.rank)
        self._watch: Watch | None = None
        self._pace = Pace()
        self.state = LoopState()
        self._saved: int | None = None
        """Step of the last good checkpoint."""
        self._resume()  # after wrapping, which gives every rank the first one's buffers

    def _resume(self) -> None:
        """From the newest whole checkpoint of this run, else from the start."""
        root, url = self._run.checkpoints, self._run.url
        newest = 0
        if self._distributed.first and url is not None:
            newest = newest_published(url) or 0
        elif self._distributed.first:
            folder_of_newest = newest_checkpoint(root)
            newest = read_loop_state(folder_of_newest).step if folder_of_newest else 0
        step = torch.tensor([newest], device=self._distributed.device)
        chosen = int(self._distributed.from_first(step).item())
        if chosen:
            self._saved = chosen
            folder = step_folder(root, chosen) if url is None else fetch_checkpoint(url, chosen, root)
            if url is not None and self._distributed.first:
                pull(url, self._run.path, lambda name: name == self._run.metrics.name)
            load_weights(self.network, load_tensors(folder / WEIGHTS), folder / WEIGHTS)
            load_optimiser(folder / "optimiser.safetensors", self.network, self.optimiser)
            load_rank(folder, self._distributed.rank, self.network)
            self.state = read_loop_state(folder)
            if self._distributed.first:
                log.info("Going on from %s.", self._place_of(chosen))
        if self._distributed.first:
            self._say_best()
            self._run.point_best(self.state.best_step)
            unmark_newer(root, chosen)
            if url is not None:
                unmark_newer_published(url, chosen)

    def go(self) -> None:
        """Train to the last step.

        Raises RunStopped after a stop request, with a checkpoint saved; RunEnded when loss or gradient is no longer
        finite, with the frames of that step written out, or the weights are not, before they are validated or saved.
        """
        try:
            if self.state.step < self.last_step or self.state.validation_due:
                self._go()
        finally:
            # Before the process group ends: its last holder waits for gloo's threads, and DDP would do so holding the
            # GIL, for which such a thread may be waiting.
            self._wrapped = self.network

    def _go(self) -> None:
        first, distributed = self.state.step, self._distributed
        stream = open_stream(
            self._archive,
            self._plan,
            self._config.task,
            backend=self._backend,
            first_step=first,
            last_step=self.last_step,
            rank=distributed.rank,
            world=distributed.size,
        )
        with contextlib.ExitStack() as stack:
            stack.callback(getattr(stream, "close", lambda: None))
            if distributed.first:
                validated = not self.state.validation_due
                self._watch = Watch(self._run, first, validated=validated, progress=self._progress)
                if first == 0 and self._histogram is not None:
                    self._watch.add("labels", 0, {"histogram": self._histogram.named})
            try:
                self._steps(stream)
            except StorageLost as error:
                raise EcgrayError(
                    f"{error} The last good checkpoint is {self._last_good()}; go on with --resume."
                ) from error
            except RunEnded:
                self._publish_progress()
                raise
            self._publish_progress()

    def _steps(self, stream: Iterator[Batch]) -> None:
        training, pace = self._config.training, self._pace
        if self.state.validation_due:
            self._validate()
            if self.state.validation_due:
                raise self._stopped()
            self._save()
        lag = LAG.get(self._distributed.device.type, 0)
        pending: deque[Step] = deque()
        pace.restart()
        warm = self._distributed.size == 1
        for batch in pace.waiting_for(stream):
            if not warm:
                self._warm_up(batch)
                warm = True
            pending.append(self._step(batch))
            self.state.step += 1
            done = self.state.step
            validates, saves = (
                done == self.last_step or done % every == 0
                for every in (training.validate_every, training.checkpoint_every)
            )
            stopping = False
            while len(pending) > (0 if validates or saves or stopping else lag):
                stopping |= self._take(pending.popleft())
            if self._watch is not None:
                self._watch.stepped(done, self.state.loss / self.state.counted if self.state.counted else None)
            if validates or saves or stopping:
                self._refuse_nonfinite()
            if validates:
                saves |= self._validate()
                stopping |= self.state.validation_due
            if saves or stopping:
                self._save()
            if validates or saves:
                pace.restart()
            if stopping and (done < self.last_step or self.state.validation_due):
                raise self._stopped()

    def _stopped(self) -> RunStopped:
        return RunStopped(
            f"The run was stopped by {self._stop.signal_name or 'another worker'} after step {self.state.step} of "
            f"{self.last_step}, and {self._place_of(self.state.step)} holds all of it; go on with --resume."
        )

    def _step(self, batch: Batch) -> Step:
        """Forward, backward and one step of the optimiser on this rank's frames."""
        training, distributed, objective = self._config.training, self._distributed, self._config.objective
        # What the host knows is not asked of the device: a small network's step is as fast as its host can launch it.
        counted = int((batch.target != IGNORED).sum())
        # DDP averages over ranks, whatever each one holds: times the ranks, over what counts on all of them.
        scale = (distributed.size / distributed.total(counted).clamp_min(1)).float()
        target = self._standardise.target(batch)
        parts = training.accumulation
        losses, predicted = [], []
        for first, last in pairwise(len(batch) * part // parts for part in range(parts + 1)):
            accumulates = last < len(batch) and isinstance(self._wrapped, DistributedDataParallel)
            with self._wrapped.no_sync() if accumulates else contextlib.nullcontext():  # type: ignore[operator]
                with self._autocast:
                    logits = self._wrapped(self._standardise(batch.rows(first, last)))
                part_losses = objective.losses(logits, target[first:last], self._weights)
                (part_losses.sum() * scale).backward()
            losses.append(part_losses.detach())
            predicted.append(logits.detach().argmax(1))
        norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None], foreach=True)
        if self._config.optimiser.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self._config.optimiser.clip_norm, norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        frame_losses = torch.cat(losses)
        loss = frame_losses.sum(dtype=torch.float64)
        correct = (torch.cat(predicted) == target).sum()
        known = (torch.full_like(loss, counted), torch.full_like(loss, self._stop()))
        sums = distributed.sum(torch.stack([loss, correct.double(), norm.double(), *known]))
        return Step.read_later(self.state.step + 1, batch, frame_losses, sums)

    def _take(self, step: Step) -> bool:
        """Add a step's outcome to the running sums, logged when it is time; returns whether a stop was asked for."""
        loss, correct, norm, counted, stop = step.read()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            stop_on_nonfinite(self._run, self._config, self._archive, self._distributed, step)
        self.state.loss += loss
        self.state.correct += correct
        self.state.counted += counted
        self._pace.frames += self._config.training.batch_size
        if step.number % self._config.training.log_every == 0 or step.number == self.last_step:
            self._log(step.number)
        return stop > 0

    def _refuse_nonfinite(self) -> None:
        """Raises RunEnded for weights that a step with a finite loss and gradient has made infinite."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters):
            raise RunEnded(
                f"The weights must be finite, got nan or inf after step {self.state.step}, whose loss and gradient "
                f"were finite; the last good checkpoint is {self._last_good()}. Start a new run with a lower "
                "optimiser.learning_rate."
            )

    def _warm_up(self, batch: Batch) -> None:
        """One forward and backward that leave nothing behind, but for DDP's layout of gradients.

        DDP lays out its buckets anew after the first backward, and sums of three ranks or more depend on the layout:
        without this, the first step after a resume would round differently.
        """
        rows = batch.rows(0, max(1, len(batch) // self._config.training.accumulation))
        before = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        device = self._distributed.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            with self._autocast:
                logits = self._wrapped(self._standardise(rows))
            (logits.float().sum() * 0).backward()
        self.optimiser.zero_grad()
        with torch.no_grad():
            for name, buffer in self.network.named_buffers():
                buffer.copy_(before[name])

    def _log(self, step: int) -> None:
        """The means since the last time, as of ``step``."""
        state, counted, measured = self.state, max(self.state.counted, 1), self._pace.measure()
        if self._watch is not None:
            values = {"loss": state.loss / counted, "accuracy": state.correct / counted, "frames": int(state.counted)}
            self._watch.add("train", step, values | measured)
        if self._publish is not None:
            self._publish(
                measured
                | {
                    "step": step,
                    "loss": state.loss / counted,
                    "step_s": self._config.training.batch_size / measured["frames_per_s"],
                    "gpu_memory_bytes": self._distributed.memory_bytes,
                }
            )
        state.loss = state.correct = state.counted = 0.0
        self._pace.restart()

    def _validate(self) -> bool:
        """Returns whether this is the best validation so far. At a stop request it is left and stays due."""
        self.state.validation_due = True
        # Without gradients a rank has room for more than its share of a step, which may be a handful of frames.
        batch = max(1, self._config.training.batch_size // self._config.training.accumulation)
        try:
            result = validate(
                self.network,
                until_stopped(self._archive, self._plan, self._config.task, batch, self._stop, self._distributed),
                self._classes,
                self._standardise,
                self._config.objective,
                self._weights,
                self._autocast,
                self._distributed,
            )
        except ValidationAbandoned:
            return False
        self.state.validation_due = False
        if self._watch is not None:
            self._watch.add("validation", self.state.step, result.to_dict())
        if self._publish is not None:
            self._publish({"validation_loss": result.loss, "validation_accuracy": result.accuracy})
        if self._report is not None:
            self._report({"step": self.state.step, "loss": result.loss, "accuracy": result.accuracy})
        if self.state.best_accuracy is not None and result.accuracy <= self.state.best_accuracy:
            return False
        self.state.best_step, self.state.best_accuracy = self.state.step, result.accuracy
        self._say_best()
        return True

    def _say_best(self) -> None:
        if self._progress is not None and self.state.best_accuracy is not None:
            self._progress.say(best=f"best {self.state.best_accuracy:.3f} (step {self.state.best_step})")

    def _save(self) -> None:
        root, state, distributed = self._run.checkpoints, self.state, self._distributed

        def shared(folder: Path) -> None:
            save_model(folder, self.network, self._description)
            save_optimiser(folder / "optimiser.safetensors", self.network, self.optimiser)
            write_loop_state(folder, state)

        def own(folder: Path) -> None:
            save_rank(folder, distributed.rank, self.network)

        if self._run.url is None:
            write_checkpoint(root, state.step, distributed, shared=shared, own=own)
        else:
            self._publish_progress()  # first: a checkpoint that can be resumed from has its metrics
            publish_checkpoint(self._run, state.step, distributed, shared=shared, own=own)
        self._saved = state.step
        if distributed.first:
            keep = self._config.training.keep_checkpoints
            self._run.point_best(state.best_step)
            if state.validation_due:
                return  # it will be written anew: until then, those before it are there to fall back on
            prune_checkpoints(root, keep, state.best_step)
            if self._run.url is not None:
                prune_published(self._run.url, keep, state.best_step)

    def _publish_progress(self) -> None:
        if self._watch is not None:
            self._run.publish_progress()

    def _last_good(self) -> Path | str:
        return "none yet" if self._saved is None else self._place_of(self._saved)

    def _place_of(self, step: int) -> Path | str:
        """Where the checkpoint of ``step`` is found."""
        folder = step_folder(self._run.checkpoints, step)
        return folder if self._run.url is None else join(self._run.url, FOLDER, folder.name)
