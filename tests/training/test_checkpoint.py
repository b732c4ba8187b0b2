"""Checkpoints: whole or not counted, and nothing lost on the way through a file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from ecgray.errors import EcgrayError
from ecgray.training import checkpoint
from ecgray.training.checkpoint import (
    LoopState,
    fault_of,
    load_optimiser,
    load_rank,
    newest_checkpoint,
    prune_checkpoints,
    read_loop_state,
    save_optimiser,
    save_rank,
    write_checkpoint,
    write_loop_state,
)
from ecgray.training.distributed import Distributed


def write(root: Path, step: int) -> Path:
    return write_checkpoint(
        root,
        step,
        Distributed(),
        shared=lambda folder: write_loop_state(folder, LoopState(step=step, loss=0.1 + step)),
        own=lambda folder: save_rank(folder, 0, small_network()),
    )


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(8, 2))


def test_the_newest_whole_one_is_chosen(tmp_path: Path) -> None:
    folders = [write(tmp_path, step) for step in (3, 999_999, 1_000_000)]
    assert newest_checkpoint(tmp_path) == folders[2]
    assert read_loop_state(folders[2]) == LoopState(step=1_000_000, loss=1_000_000.1)


@pytest.mark.parametrize("harm", ["flip", "cut", "delete", "marker"])
def test_a_torn_one_is_skipped_with_a_warning(tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    good, torn = write(tmp_path, 3), write(tmp_path, 6)
    file = torn / "rank-0.safetensors"
    content = bytearray(file.read_bytes())
    if harm == "flip":
        content[-1] ^= 1
        file.write_bytes(content)
    elif harm == "cut":
        file.write_bytes(content[:-10])
    elif harm == "delete":
        file.unlink()
    else:
        (torn / "complete").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path) == good
    assert "step-000006" in caplog.text and "not whole" in caplog.text


def test_one_without_its_marker_does_not_count(tmp_path: Path) -> None:
    good, unfinished = write(tmp_path, 3), write(tmp_path, 6)
    (unfinished / "complete").unlink()
    assert newest_checkpoint(tmp_path) == good
    write(tmp_path, 6)
    assert newest_checkpoint(tmp_path) == unfinished


def test_a_marker_cannot_name_files_outside(tmp_path: Path) -> None:
    folder = write(tmp_path, 3)
    (folder / "complete").write_text('{"files": {"../../secret": {"bytes": 1, "sha256": ""}}}')
    assert "outside" in (fault_of(folder) or "")


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        write(tmp_path, step)
    (tmp_path / "step-000006" / "complete").unlink()
    (tmp_path / ".step-000009.partial").mkdir()
    prune_checkpoints(tmp_path, keep=2, best_step=1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-000001", "step-000004", "step-000005"]


def test_a_disk_that_refuses_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write(tmp_path, 3)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_tensors", full)
    with pytest.raises(EcgrayError, match=r"No space left.*step-000003"):
        write(tmp_path, 6)
    assert [entry for entry in tmp_path.iterdir()] == [good]


def test_optimiser_and_rank_state_come_back_to_the_bit(tmp_path: Path) -> None:
    def train(network: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            network(torch.randn(5, 1, 4)).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        network = small_network()
        return network, torch.optim.AdamW(network.parameters(), lr=0.01)

    torch.manual_seed(0)
    network, optimiser = fresh()
    train(network, optimiser, 3)
    save_optimiser(tmp_path / "optimiser.safetensors", network, optimiser)
    save_rank(tmp_path, 0, network)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    train(network, optimiser, 3)

    again, its_optimiser = fresh()
    again.load_state_dict(weights)
    load_optimiser(tmp_path / "optimiser.safetensors", again, its_optimiser)
    load_rank(tmp_path, 0, again)
    train(again, its_optimiser, 3)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_state_of_another_network_is_refused(tmp_path: Path) -> None:
    network = small_network()
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.randn(5, 1, 4)).sum().backward()
    optimiser.step()
    save_optimiser(tmp_path / "optimiser.safetensors", network, optimiser)
    save_rank(tmp_path, 0, network)
    other = nn.Sequential(nn.Conv1d(1, 8, 3), nn.BatchNorm1d(8))
    with pytest.raises(EcgrayError, match="this very network"):
        load_optimiser(tmp_path / "optimiser.safetensors", other, torch.optim.AdamW(other.parameters()))
    with pytest.raises(EcgrayError, match="this very network"):
        load_rank(tmp_path, 0, other)
