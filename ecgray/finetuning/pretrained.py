"""What a finetuning run takes over from a pretraining run: its encoder, and which records it has seen."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ecgray.config import to_dict
from ecgray.errors import EcgrayError
from ecgray.finetuning.labelled import record_names, refuse_overlap
from ecgray.models.base import Model
from ecgray.shards.archive import Archive, open_archive
from ecgray.shards.manifest import file_sha256
from ecgray.shards.storage import is_remote, join, resolve
from ecgray.training.config import PretrainConfig
from ecgray.training.loaded import model_folder
from ecgray.training.model_folder import WEIGHTS, ModelDescription, read_description
from ecgray.training.run import RunFolder, read_config, run_hash

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A pretrained network: the model folder that is used (a path or a URL), its description, the SHA-256 of its
    weights, the config of its run and the step that it was chosen at (both None for a model folder outside a run)."""

    folder: str
    description: ModelDescription
    sha256: str
    config: PretrainConfig | None
    chosen_at: int | None = None

    def origin(self) -> dict[str, Any]:
        """What a finetuning run keeps of it, since the pretraining run may be moved."""
        return {
            "folder": self.folder,
            "sha256": self.sha256,
            "config_hash": self.description.config_hash,
            "manifest_hashes": list(self.description.manifest_hashes),
            "fs": self.description.fs,
            "config": None if self.config is None else to_dict(self.config),
            "chosen_at": self.chosen_at,
        }


def open_pretrained(run: str | Path) -> Pretrained:
    """The network of a pretraining run: its best checkpoint, or the one given (RUN/checkpoints/step-000123).

    Raises EcgrayError when there is none, or the run's config cannot be read: it says what the network has seen.
    """
    folder = model_folder(run).resolve()
    in_run = folder.parent.name == "checkpoints" and (folder.parents[1] / "config.json").is_file()
    return Pretrained(
        folder=_named(run, folder),
        description=read_description(folder),
        sha256=file_sha256(folder / WEIGHTS),
        config=read_config(folder.parents[1]) if in_run else None,
        chosen_at=_chosen_at(folder) if in_run else None,
    )


def _chosen_at(checkpoint: Path) -> int | None:
    """The last step of those whose best the checkpoint is: its run's, where it is the run's best one, else its own."""
    run, number = RunFolder(checkpoint.parents[1]), checkpoint.name.removeprefix("step-")
    step = int(number) if number.isdecimal() else None
    if step is None or run.best.resolve() != checkpoint:
        return step
    end = run.find_metrics(sys.maxsize)  # all of its lines, of weeks, would be millions
    return max([step, *(line["step"] for line in run.read_metrics(end))])


def not_yet_trained(config: PretrainConfig, archive: Archive) -> Pretrained:
    """The network that ``config`` will train on ``archive``, for what can be refused before it does."""
    hashes = tuple(manifest.hash for manifest in archive.manifests)
    description = ModelDescription(
        model=config.model,
        classes=config.task.classes,
        leads=archive.leads,
        fs=archive.fs,
        mean_mv=archive.mean_mv,
        sd_mv=archive.sd_mv,
        config_hash=run_hash(config, hashes),
        manifest_hashes=hashes,
    )
    return Pretrained(folder="this network", description=description, sha256="", config=config)


def _named(run: str | Path, folder: Path) -> str:
    """Where a model folder lies, which for a run at a URL was read from a copy."""
    if not is_remote(run):
        return str(folder)
    url, inside = resolve(run), f"{folder.parent.name}/{folder.name}"
    known = folder.parent.name in ("checkpoints", "seeds") and not url.endswith(f"/{inside}")
    return join(url, inside) if known else url


def check_fits(pretrained: Pretrained, model: Model, leads: tuple[str, ...]) -> None:
    """Raises EcgrayError unless the pretrained encoder can start ``model`` on data with as many leads as ``leads``.

    The sampling rate may differ: the data's is a setting of its own (the paper's Table 3), and is recorded.
    """
    own = pretrained.description
    if len(own.leads) not in (1, len(leads)):
        raise EcgrayError(
            f"A pretrained network must have one lead or those of the data, got {len(own.leads)} and {len(leads)}; "
            "pretrain on single-lead records or on the same leads."
        )
    # A pretrained encoder may lack the last stage; anything else would not load.
    lacks_some = getattr(own.model, "stages", 0) <= getattr(model, "stages", 0)
    free = ("stages", "init") if lacks_some else ("init",)
    here, there = ({k: v for k, v in to_dict(m).items() if k not in free} for m in (model, own.model))
    if here != there:
        differing = ", ".join(f"{key} {there.get(key)}" for key in here if here[key] != there.get(key))
        raise EcgrayError(
            f"The model must be that of the pretrained run, got one that differs from its {differing}; "
            "set the model's fields to those or choose another run."
        )


def refuse_pretraining_records(test: pd.DataFrame, archive: Archive, origin: Mapping[str, Any]) -> bool:
    """Refuse ``test``, records of ``archive``, if a network has seen one in pretraining (``origin``: see
    ``Pretrained.origin``). Validation patients count too, since they chose its checkpoint.

    Returns whether records could be compared one by one. Where the pretraining's shard sets can no longer be opened,
    only whole sets are compared, by their manifests, and a warning says so.
    Raises EcgrayError for records that it has seen, by name or by signal, with the list.
    """
    hashes = origin["manifest_hashes"]
    shards = ((origin["config"] or {}).get("data") or {}).get("shards") or []
    try:
        seen = open_archive(shards)
        if sorted(manifest.hash for manifest in seen.manifests) != sorted(hashes):
            raise EcgrayError(f"the shard sets at {', '.join(shards)} are others by now")
    except (EcgrayError, OSError) as error:
        if {manifest.hash for manifest in archive.manifests} & set(hashes):
            raise EcgrayError(
                f"No test record may be among the pretraining run's, got the very shard set {archive.paths[0]}, which "
                "was pretrained on; pretrain on other shard sets, or test on another one."
            ) from error
        log.warning(
            "The pretraining run's records could not be compared with the test records one by one (%s); "
            "only whole shard sets were.",
            error,
        )
        return False
    refuse_overlap(test, record_names(seen), f"the records that {origin['folder']} was pretrained on")
    return True
