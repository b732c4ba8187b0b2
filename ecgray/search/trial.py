"""One trial: pretrain up to its rungs, be probed there, finetune, and say what that is worth.

It runs in an actor of Ray Tune and keeps all it does in folders, so that a trial whose process died goes on where it
was. What it reports:

    {"steps", "probe"}                                     at a rung, after which Tune may stop it
    {"score", "cost"}                                      at its end
    {"failed"}                                             instead of an exception, which Tune would try again
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ecgray.config import config_hash
from ecgray.errors import EcgrayError
from ecgray.finetuning.folder import write_json_atomically
from ecgray.finetuning.protocol import finetune
from ecgray.search.config import SweepConfig
from ecgray.search.folder import SweepFolder
from ecgray.search.shared import Devices, SharedPretraining, seeds_side_by_side, validation_score
from ecgray.shards.manifest import write_atomically
from ecgray.training.events import Events
from ecgray.training.model_folder import read_json
from ecgray.training.run import HANDOVER_S, locked

ERROR, RESULT = "error.txt", "result.json"


@dataclass(frozen=True, kw_only=True)
class TrialSetting:
    """What all trials of a sweep have in common; hashes: of the manifests of the pretraining data."""

    sweep: SweepFolder
    config: SweepConfig
    hashes: Sequence[str]
    devices: Devices


def run_trial(asked: dict[str, Any], setting: TrialSetting) -> None:
    """What runs in an actor; ``asked`` is {"number", "params"} of the trial."""
    from ray import tune

    folder = setting.sweep.trial(asked["number"])
    folder.mkdir(parents=True, exist_ok=True)
    # The actor of a driver that was killed lives on for seconds: two must never write.
    with locked(folder / "lock", HANDOVER_S):
        try:
            events = Events(folder / "events")
            for result in _results(asked["number"], asked["params"], setting):
                shown = {f"trial/{name}": result[name] for name in ("probe", "score") if name in result}
                events.add(shown, result.get("steps", setting.config.steps))
                tune.report(result)
        except Exception as error:
            text = str(error) if isinstance(error, EcgrayError) else traceback.format_exc()
            write_atomically(folder / ERROR, (text.strip() + "\n").encode())
            tune.report({"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})


def _results(number: int, params: dict[str, Any], setting: TrialSetting) -> Iterator[dict[str, Any]]:
    sweep, base, devices = setting.sweep, setting.config, setting.devices
    folder = sweep.trial(number)
    if (folder / RESULT).is_file():  # its end was not told any more
        stored = read_json(folder / RESULT)
        if stored["params"] != params:
            raise EcgrayError(
                f"Trial {number} must be the one whose result lies in {folder}, got other values; start a new sweep."
            )
        yield {"score": stored["score"], "cost": stored["cost"]}
        return
    torch.set_num_threads(devices.threads)
    config = base.of_trial(params)
    shared = SharedPretraining(sweep, base, config.pretrain, setting.hashes, devices)
    link = folder / "pretraining"
    link.unlink(missing_ok=True)
    link.symlink_to(f"../../pretraining/{shared.name}")
    for steps in config.rungs:
        with shared.alone():
            shared.train_to(steps)
            score = shared.probe(steps)
        yield {"steps": steps, "probe": score}
    with shared.alone():
        shared.train_to(config.steps)
    out, began = folder / "finetune", time.monotonic()
    asked = config.finetuning(str(shared.run))
    finetune(
        asked,
        out,
        workers=seeds_side_by_side(devices, asked.protocol.seeds),
        resume=True,
        with_test=False,
        show_progress=False,
        most_cpus=devices.most_cpus,
    )
    seconds = time.monotonic() - began
    score, cost = validation_score(out), shared.device_seconds() + seconds * devices.devices
    values = {"score": score, "cost": cost, "finetune_seconds": seconds, "devices": devices.devices}
    names = {"pretraining": shared.name, "config_hash": config_hash(config)}
    write_json_atomically(folder / RESULT, values | names | {"params": params})
    yield {"score": score, "cost": cost}
