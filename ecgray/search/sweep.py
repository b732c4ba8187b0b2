"""The sweep: Optuna proposes, Ray Tune runs, the study remembers; at the end the test is opened once."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from ecgray.cluster import connected
from ecgray.errors import EcgrayError, counted
from ecgray.finetuning.pretrained import not_yet_trained
from ecgray.finetuning.protocol import examine
from ecgray.progress import Progress, announce
from ecgray.sampling.plan import make_plan
from ecgray.sampling.ray_nodes import Node
from ecgray.search.config import SweepConfig
from ecgray.search.final import best_trial, run_final
from ecgray.search.folder import SweepFolder, open_sweep
from ecgray.search.shared import Devices
from ecgray.search.space import Space
from ecgray.search.trial import RESULT, TrialSetting, run_trial
from ecgray.search.watching import watched
from ecgray.shards.archive import open_archive
from ecgray.shards.storage import is_remote, resolve
from ecgray.training.room import LEAST_CPUS, ask_for, may_grow, places, share, wait_for, whole

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from ecgray.search.study import StudySearch

ACTOR_CPUS = 0.01
"""What the actor of a trial reserves whose workers do the work; Tune takes no 0."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a trial gets."""

    workers: int = 1
    """Workers of Ray Train for each trial (1: it trains in the trial's own actor)."""
    gpus: float | None = None
    """GPUs of a trial with one worker; a fraction lets several share one (default: a whole one where there are any)."""
    concurrent: int | None = None
    """Most trials at a time (default: as many as the cluster holds, one CPU for each worker without a GPU)."""

    def __post_init__(self) -> None:
        if (
            self.workers < 1
            or (self.concurrent is not None and self.concurrent < 1)
            or (self.gpus is not None and self.gpus < 0)
        ):
            raise EcgrayError(
                "A trial must have a worker or more, no negative share of a GPU, and at least one must run at a time, "
                f"got {self.workers}, {self.gpus} and {self.concurrent}; leave them out for what the cluster holds."
            )
        if self.workers > 1 and self.gpus not in (None, 1):
            raise EcgrayError(
                f"Trials with several workers must take a whole GPU for each, got {self.gpus:g}; leave --gpus out or "
                "take --workers 1."
            )

    def of(self, nodes: Sequence[Node], growing: int | None = None) -> tuple[int, dict[str, float], Devices] | None:
        """(trials at a time, what the actor of each reserves, what it computes on) on ``nodes``; None where not even
        one trial fits. ``growing``: how many there are for a cluster that may grow, where those that do not fit yet
        wait for other nodes like these."""
        each = (1.0 if any(node.get("GPU", 0.0) >= 1 for node in nodes) else 0.0) if self.gpus is None else self.gpus
        fits = places(nodes, LEAST_CPUS if each else 1.0, each)
        trials = min(fits // self.workers, self.concurrent or fits)
        if trials < 1:
            return None
        if self.workers > 1:
            beside = [{**node, "CPU": max(0.0, node.get("CPU", 0.0) - trials * ACTOR_CPUS)} for node in nodes]
            cpus = whole(share(beside, trials * self.workers, each))
            if not cpus:
                return None
            inside = Devices(workers=self.workers, threads=max(1, int(cpus)), devices=self.workers, most_cpus=cpus)
            return (self.concurrent or trials if growing else trials), {"CPU": ACTOR_CPUS}, inside
        cpus = whole(share(nodes, trials, each))
        reserved = {"CPU": cpus} | ({"GPU": each} if each else {})
        if growing:
            trials = self.concurrent or growing
        return trials, reserved, Devices(threads=max(1, int(cpus)), devices=each or 1.0)

    def wait(self, trials: int) -> tuple[int, dict[str, float], Devices]:
        """``of`` the cluster that this process is connected to, once a trial fits: an autoscaler is waited for.

        Raises EcgrayError when not even one trial fits.
        """

        def refusal(held: str, gpu: bool) -> str:
            each = float(gpu) if self.gpus is None else self.gpus
            return (
                f"A trial needs {self.workers} workers with {each:g} GPUs or a CPU each, got a cluster with {held}; "
                "take fewer workers or a smaller share."
            )

        device: Literal["cpu", "cuda"] | None = None if self.gpus is None else "cuda" if self.gpus else "cpu"
        try:
            wanted = self.workers, self.workers
            return wait_for(lambda nodes: self.of(nodes, trials if may_grow() else None), wanted, device, refusal)
        finally:
            ask_for([])  # trials ask by themselves


def sweep(
    space: Space,
    config: SweepConfig,
    out: Path | str,
    *,
    resources: Resources | None = None,
    storage: str = "sqlite",
    mlflow: str | None = None,
    resume: bool = False,
    show_progress: bool = True,
) -> Path:
    """Run the trials of ``config.search`` over ``space`` into the folder ``out`` (see ``ecgray.search.folder``) and
    return it. ``storage``: see ``ecgray.search.study.open_storage``; it is given again with ``resume``, which
    repeats no finished trial and lets those go on that were running. ``mlflow``: where finished trials are shown too.

    Raises EcgrayError for data, settings, storages and clusters that cannot do it, before the folder becomes a sweep,
    and when no trial came to its end.
    """
    try:
        import optuna
    except ImportError:
        raise EcgrayError("A sweep needs Optuna, which is not installed; pip install 'ecgray[search]'.") from None
    if is_remote(str(out)):
        raise EcgrayError(
            f"A sweep must go into a folder that its machines see, got {out}; give a path, on a network file system "
            "with --storage journal."
        )
    if space.stage == "finetune":  # all trials share one pretraining: there is nothing to stop
        config = replace(config, search=replace(config.search, early_stopping=False))
    config, hashes = _resolved(config)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # TensorBoard events and results are ours
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial reports probes, then a score
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    with open_sweep(Path(out), config, hashes, resume=resume) as (folder, study_name, begin):
        from ecgray.search.mlflow_runs import MlflowRuns
        from ecgray.search.study import FINISHED, OBJECTIVES, StudySearch, open_storage, stored

        opened = open_storage(storage, folder.path)
        if folder.trials.is_file() and study_name not in optuna.study.get_all_study_names(opened):
            raise EcgrayError(
                "A sweep must be resumed with the storage it was started with, got one without its study "
                f"{study_name}; give the old --storage."
            )
        shown = MlflowRuns(mlflow, study_name, OBJECTIVES[config.search.objective]) if mlflow else None
        with stored(), connected():
            concurrent, reserved, devices = (resources or Resources()).wait(config.search.trials)
            begin()
            setting = TrialSetting(sweep=folder, config=config, hashes=hashes["pretrain"], devices=devices)
            announce(show_progress, *_before(config, concurrent, devices, folder.path))
            with Progress("sweep", config.search.trials, "trial", show=show_progress) as progress:

                def finished(trial: FrozenTrial) -> None:
                    _show(progress, trial)
                    if (best := best_trial(searcher.study)) is not None:
                        progress.say(best=f"best F1 {best.values[0]:.3f} (trial {best.number})")
                    if shown:
                        shown.tell(trial)

                searcher = StudySearch(space, config.search, opened, study_name, folder, finished)
                progress.to(config.search.trials - searcher.left)
                if shown:
                    for trial in searcher.study.get_trials(states=FINISHED):
                        shown.tell(trial)
                if searcher.left:
                    with watched(progress, folder, config, searcher.going):
                        _run(searcher, setting, concurrent, reserved)
            if searcher.left:
                raise EcgrayError(
                    f"The sweep was stopped with {searcher.left} of {config.search.trials} trials to go; "
                    "go on with --resume."
                )
            if config.search.final_seeds:
                run_final(
                    space,
                    setting,
                    searcher.study,
                    workers=max(concurrent, devices.workers),
                    show_progress=show_progress,
                )
            announce(show_progress, _after(searcher.study))
        return folder.path


def _before(config: SweepConfig, concurrent: int, devices: Devices, place: Path) -> tuple[str, ...]:
    """What is said before the first trial."""
    search, workers = config.search, devices.workers
    each = f"{workers} workers of Ray" if workers > 1 else counted(devices.threads, "thread")
    stops = f"judged after {', '.join(f'{rung:,}' for rung in config.rungs)}" if config.rungs else "none stopped early"
    return (
        f"sweep {config.space}: {counted(search.trials, 'trial')}, up to {concurrent} at a time with {each} each",
        f"each: {config.steps:,} pretraining steps ({stops}), then {counted(search.seeds, 'seed')} of at most "
        f"{counted(config.finetuning('').protocol.epochs, 'epoch')}",
        f"pretrains on {', '.join(config.pretrain.data.shards)}; finetunes on {config.finetune.data.shards}; writes to "
        f"{place}",
    )


def _after(study: Study) -> str:
    best = best_trial(study)
    if best is None:
        return "done: no trial came to its end"
    return f"done: trial {best.number} is the best of {len(study.trials)}, macro F1 {best.values[0]:.3f} on validation"


def _resolved(config: SweepConfig) -> tuple[SweepConfig, dict[str, list[str]]]:
    """With absolute paths and the number of steps; and the hashes of the manifests of its data, by what it is for."""

    def absolute(path: str) -> str:
        return resolve(path) if path not in ("", "none") else path

    pretrain, finetune = config.pretrain, config.finetune
    shards = tuple(map(absolute, pretrain.data.shards))
    archive = open_archive(shards, verify=pretrain.data.verify)
    plan = make_plan(archive, pretrain.sampling, pretrain.task, pretrain.training.batch_size)
    training = replace(pretrain.training, steps=pretrain.training.steps or plan.steps_per_budget)
    pretrain = replace(pretrain, data=replace(pretrain.data, shards=shards), training=training)
    test = None if finetune.data.test_shards is None else absolute(finetune.data.test_shards)
    data = replace(finetune.data, shards=absolute(finetune.data.shards), test_shards=test)
    config = replace(config, pretrain=pretrain, finetune=replace(finetune, data=data))
    # Made here for what they refuse, instead of in a trial that has pretrained for hours.
    _, base, network = config.rungs, config.of_trial({}), not_yet_trained(pretrain, archive)
    asked = [base.probing(pretrain, ""), base.finetuning("")]
    for finetuning in asked + ([base.final("")] if config.search.final_seeds else []):
        material = examine(finetuning, network)
    sets = [material.labelled, *([material.test_set] if material.test_set else [])]
    hashes = {
        "pretrain": [manifest.hash for manifest in archive.manifests],
        "finetune": [manifest.hash for labelled in sets for manifest in labelled.archive.manifests],
    }
    return config, hashes


def _run(searcher: StudySearch, setting: TrialSetting, concurrent: int, reserved: dict[str, float]) -> None:
    from ray import tune

    from ecgray.search.deaths import RETRIES, Deaths

    state = setting.sweep.path / "tune" / uuid.uuid4().hex[:12]
    state.mkdir(parents=True)
    trainable = tune.with_resources(tune.with_parameters(run_trial, setting=setting), reserved)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_halving(searcher.study, setting.config, setting.sweep),
            num_samples=searcher.left,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(state),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[Deaths(setting.sweep)],
            verbose=0,
        ),
    )
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)  # misses the loggers' files
    logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)  # the study tells what failed
    try:
        tuner.fit()
    except tune.TuneError:
        if searcher.failure is None:
            raise
        raise searcher.failure from None
    finally:
        shutil.rmtree(setting.sweep.path / "tune", ignore_errors=True)
        searcher.dump()


def _halving(study: Study, config: SweepConfig, sweep: SweepFolder) -> Any:
    """Asynchronous successive halving that knows what earlier processes of this sweep have seen at every rung, but of
    trials that go on: those report their rungs again."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    from ecgray.search.study import FINISHED, probes_of

    if not config.rungs:
        return FIFOScheduler()
    scheduler = ASHAScheduler(
        time_attr="steps",
        metric="probe",
        mode="max",
        grace_period=config.rungs[0],
        max_t=config.rungs[0] * config.search.reduction**config.search.rungs,
        reduction_factor=config.search.reduction,
        stop_last_trials=False,
    )
    nobody: Any = None
    for trial in study.get_trials():
        # One whose end is written and was not told reports no more than its result.
        if trial.state not in FINISHED and not (sweep.trial(trial.number) / RESULT).is_file():
            continue
        before: Any = SimpleNamespace(trial_id=f"before-{trial.number}")
        scheduler.on_trial_add(nobody, before)
        for steps, probe in sorted(probes_of(trial).items()):
            scheduler.on_trial_result(nobody, before, {"steps": steps, "probe": probe})
    return scheduler


def _show(progress: Progress, trial: FrozenTrial) -> None:
    from ecgray.search.study import probes_of

    said = trial.user_attrs.get("error", f"after {max(probes_of(trial), default=0)} steps")
    if trial.state.name == "COMPLETE":
        said = f"macro F1 {trial.values[0]:.3f}"
    params = ", ".join(f"{name.partition('.')[2]} {value}" for name, value in trial.params.items())
    progress.note(f"trial {trial.number}: {trial.state.name.lower()}, {said} ({params})")
