"""The end of a sweep: the winner and its baselines with more seeds, and their test records, opened once.

The first of these seeds are those whose validation records chose the winner; no choice has seen the test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecgray.errors import EcgrayError
from ecgray.finetuning.folder import write_json_atomically
from ecgray.finetuning.protocol import finetune
from ecgray.search.config import SweepConfig
from ecgray.search.shared import SharedPretraining
from ecgray.search.space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from ecgray.search.trial import TrialSetting


def run_final(space: Space, setting: TrialSetting, study: Study, *, workers: int, show_progress: bool = True) -> None:
    """Finetune ``final_seeds`` seeds and open their test: of the winner (highest score on validation), of the same
    network from random weights ("none"), and of the paper's best settings where that trial came to its end ("paper").

    Raises EcgrayError when no trial came to its end.
    """
    winner = best_trial(study)
    if winner is None:
        errors = [str(trial.user_attrs["error"]) for trial in study.trials if "error" in trial.user_attrs]
        raise EcgrayError(
            f"A sweep must have a trial that came to its end, got none of {len(study.trials)}; "
            f"the first error was: {(errors or ['none'])[0]}."
        )
    trials = complete_trials(study)
    paper = next((trial for trial in trials if space.paper and _is_point(trial, space.paper[0])), None)
    chosen: dict[str, int] = {"winner": winner.number, "none": winner.number}
    if paper is not None and paper.number != winner.number:
        chosen["paper"] = paper.number
    setting.sweep.final.mkdir(exist_ok=True)
    write_json_atomically(setting.sweep.final / "final.json", chosen)
    for name, number in chosen.items():
        config = setting.config.of_trial(params_of(space, study.trials[number]))
        pretrained = None if name == "none" else str(pretraining_of(config, setting).run)
        asked = config.final(pretrained)
        finetune(
            asked,
            setting.sweep.final / name,
            workers=min(workers, asked.protocol.seeds),
            resume=True,
            show_progress=show_progress,
        )


def best_trial(study: Study) -> FrozenTrial | None:
    """The trial with the highest score on validation, the first of several; None where none came to its end."""
    return max(complete_trials(study), key=lambda trial: (trial.values[0], -trial.number), default=None)


def complete_trials(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def params_of(space: Space, trial: FrozenTrial) -> dict[str, Any]:
    """All values of a finished trial, with those that the space adds without asking for them."""
    from optuna.trial import FixedTrial

    return {**trial.params, **(space.suggest(FixedTrial(trial.params)) or {})}


def pretraining_of(config: SweepConfig, setting: TrialSetting) -> SharedPretraining:
    return SharedPretraining(setting.sweep, setting.config, config.pretrain, setting.hashes, setting.devices)


def _is_point(trial: FrozenTrial, point: Any) -> bool:
    return all(trial.params.get(name) == value for name, value in point.items())
