"""The verb that searches."""

from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from ecgray.cli.words import Flat, choose, parse
from ecgray.errors import EcgrayError
from ecgray.progress import announce

SET = {
    "finetune.model": "give the fields of --pretrain.model",
    "finetune.pretrained": "every trial is finetuned from its own pretraining",
    "finetune.protocol.seeds": "give --search.seeds or --final-seeds",
}
"""What a sweep sets whatever it was given, and what to do instead."""


def sweep(words: list[str]) -> None:
    from ecgray.recipes import SPACES
    from ecgray.search.config import SweepConfig
    from ecgray.search.sweep import Resources
    from ecgray.search.sweep import sweep as run

    @dataclass(frozen=True, kw_only=True)
    class Sweep:
        """Search a space for the settings whose network finetunes best, then test the winner and its baselines once."""

        config: Annotated[SweepConfig, Flat]
        data: tuple[str, ...] = ()
        """Shard sets to pretrain on (--pretrain.data.shards for short)."""
        downstream: str | None = None
        """Labelled shard set (--finetune.data.shards for short)."""
        trials: int | None = None
        """How many trials (--search.trials for short)."""
        final_seeds: int | None = None
        """Seeds of the winner and the baselines (--search.final-seeds for short); 0 leaves the test closed."""
        resources: Annotated[Resources, Flat]
        out: str
        """Folder of the sweep."""
        storage: str = "sqlite"
        """Where the study lies: sqlite or journal (a file in the folder), or a database URL (postgresql://...)."""
        mlflow: str | None = None
        """Tracking URI of MLflow (http://..., sqlite:///...), where every finished trial becomes a run too."""
        resume: bool = False
        """Go on with an existing sweep."""

    space, rest = choose("sweep", "space", words, SPACES)
    _refuse_set(rest, SET | dict.fromkeys({name for point in space.paper for name in point}, "the space searches it"))
    pretrain, finetune = space.make()
    start = SweepConfig(space=space.name, pretrain=pretrain, finetune=finetune)
    c = parse(Sweep, f"sweep {words[0]}", rest, Sweep(config=start, resources=Resources(), out=tyro.MISSING))
    config = c.config
    if c.data:
        config = replace(config, pretrain=replace(config.pretrain, data=replace(config.pretrain.data, shards=c.data)))
    if c.downstream is not None:
        data = replace(config.finetune.data, shards=c.downstream)
        config = replace(config, finetune=replace(config.finetune, data=data))
    if not config.finetune.data.shards:
        raise EcgrayError("A sweep needs a labelled shard set that its trials are judged by; give --downstream SHARDS.")
    if c.trials is not None:
        config = replace(config, search=replace(config.search, trials=c.trials))
    if c.final_seeds is not None:
        config = replace(config, search=replace(config.search, final_seeds=c.final_seeds))
    done = run(space, config, c.out, resources=c.resources, storage=c.storage, mlflow=c.mlflow, resume=c.resume)
    print(done, flush=True)
    announce(True, f"next: ecgray report {c.out} --out REPORT")


def _refuse_set(words: list[str], names: dict[str, str]) -> None:
    """Raises EcgrayError for a word that names one of these fields, or one within it: it would change nothing."""
    for given in (word.partition("=")[0] for word in words if word.startswith("--")):
        for name, reason in names.items():
            if f"{given[2:].replace('-', '_')}.".startswith(f"{name}."):
                raise EcgrayError(f"A sweep must set {name} itself, got {given}; leave it out: {reason}.")
