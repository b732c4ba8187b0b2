"""A pickle in each place where a file is read: it never runs, and the file is refused in one line."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecgray.databases.record import RecordRefused
from ecgray.errors import EcgrayError

DONE_WITHOUT = ("RECORDS", "metrics.jsonl", ".ledger", "seed-00/complete", "kinds/a.edf", "kinds/a.xml")
"""What is only listed, left out line by line, made anew, or there or not: nothing is lost where it is rubbish."""


class Bomb:
    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.crater),)


def as_pickle(file: Path, bomb: Bomb) -> None:
    file.write_bytes(pickle.dumps(bomb))


def as_old_pickle(file: Path, bomb: Bomb) -> None:
    file.write_bytes(pickle.dumps(bomb, protocol=0))


def as_npy(file: Path, bomb: Bomb) -> None:
    with file.open("wb") as stream:
        np.save(stream, np.array([bomb], object), allow_pickle=True)


def as_npz(file: Path, bomb: Bomb) -> None:
    with file.open("wb") as stream:
        np.savez(stream, signal=np.array([bomb], object))


def as_torch(file: Path, bomb: Bomb) -> None:
    torch.save({"model": bomb}, file)


@pytest.fixture
def unpickled() -> Iterator[list[str]]:
    """What is unpickled while the test runs (an audit hook stays for good, so that it is switched off)."""
    seen: list[str] = []
    active = [True]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if active[0] and event == "pickle.find_class":
            seen.append(str(arguments))

    sys.addaudithook(audit)
    yield seen
    active[0] = False


def test_the_bombs_are_live(tmp_path: Path, unpickled: list[str]) -> None:
    for number, plant in enumerate((as_pickle, as_old_pickle)):
        plant(tmp_path / "file", Bomb(tmp_path / f"crater{number}"))
        pickle.loads((tmp_path / "file").read_bytes())
        assert (tmp_path / f"crater{number}").is_dir()
    as_npy(tmp_path / "file", Bomb(tmp_path / "crater2"))
    np.load(tmp_path / "file", allow_pickle=True)
    as_torch(tmp_path / "file", Bomb(tmp_path / "crater3"))
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "crater2").is_dir() and (tmp_path / "crater3").is_dir() and len(unpickled) >= 4


@pytest.mark.parametrize("plant", [as_pickle, as_old_pickle, as_npy, as_npz, as_torch], ids=lambda f: f.__name__)
def test_no_file_is_unpickled(
    inputs: Path, tmp_path: Path, unpickled: list[str], plant: Callable[[Path, Bomb], None]
) -> None:
    from targets import TARGETS
    from watch import Clean

    clean = Clean(inputs)
    places = 0
    for target in TARGETS:
        for name in sorted(target.files):
            plant(inputs / name, Bomb(tmp_path / "crater"))
            unpickled.clear()  # torch.save looks up classes, too
            clean.touched(name)
            try:
                if target.mend is not None and not name.endswith(("manifest.json", "/complete")):
                    target.mend(inputs)
                outcome = ""
                for seed in range(6):  # a target may choose among databases
                    target.read(inputs, np.random.default_rng(seed))
                    if target.scratch:
                        break
            except (EcgrayError, RecordRefused) as refusal:
                outcome = str(refusal)
                assert "\n" not in outcome
            finally:
                clean.restore(target.scratch)
            assert outcome or name.endswith(DONE_WITHOUT) or "step-000004/complete" in name, (target.name, name)
            assert not unpickled and not (tmp_path / "crater").exists(), (target.name, name)
            places += 1
    assert places > 40
