"""Labelled shard sets without files behind them, and a small config that trains on them in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from ecgray.databases.record import Database, Record, Reference
from ecgray.finetuning.config import FinetuneConfig, FinetuneDataConfig, ProtocolConfig
from ecgray.models.resnet import ResNet
from ecgray.shards.ingest import ingest

RATES_HZ = {"N": 1.0, "A": 3.0, "O": 6.0, "~": 12.0}


@dataclass(frozen=True, kw_only=True)
class Memory(Database):
    """Records that a test made."""

    name: ClassVar[str] = "memory"
    title: ClassVar[str] = "Records of a test"
    licence: ClassVar[str] = "none"
    citation: ClassVar[str] = "none"
    records: ClassVar[dict[str, Record]] = {}

    def find(self, root: Path) -> Sequence[Reference]:
        return [
            Reference(record=r.id, patient=r.patient, path=root / r.id, labels=r.labels) for r in self.records.values()
        ]

    def read(self, reference: Reference) -> Record:
        return self.records[reference.record]


def make_record(
    number: int, label: str | tuple[str, ...], *, seed: int = 0, fs: float = 100.0, leads: int = 1, **changes: Any
) -> Record:
    """8 to 12 s of a sine whose rate is the class's, in noise."""
    rng = np.random.default_rng([seed, number])
    samples = int(fs * rng.integers(8, 13))
    labels = (label,) if isinstance(label, str) else label
    rate = RATES_HZ.get(labels[0] if labels else "", 2.0)
    wave = np.sin(2 * np.pi * (rate * np.arange(samples) / fs + rng.random()))
    signal = 300 * wave + rng.normal(0, 60, (leads, samples))
    record = Record(
        id=f"R{number:04d}",
        patient=f"R{number:04d}",
        database="memory",
        fs=fs,
        leads=tuple(f"lead{i}" for i in range(leads)),
        signal=signal.astype(np.int16),
        gain=np.full(leads, 200.0) + np.arange(leads),
        baseline=np.arange(leads) * 10.0,
        labels=labels,
    )
    return replace(record, **changes)


def make_records(counts: dict[str, int], *, first: int = 0, **options: Any) -> list[Record]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    order = np.random.default_rng(first).permutation(len(labels))
    return [make_record(first + i, labels[j], **options) for i, j in enumerate(order)]


def write_shards(folder: Path, records: Sequence[Record]) -> Path:
    Memory.records = {record.id: record for record in records}
    ingest(Memory(), folder.parent, folder, workers=0, shard_mb=1, progress=False)
    return folder


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 single-lead records of four classes at 100 Hz."""
    counts = {"N": 60, "A": 24, "O": 24, "~": 12}
    return write_shards(tmp_path_factory.mktemp("labelled") / "shards", make_records(counts))


@pytest.fixture
def write_other() -> Callable[[Path], Path]:
    """Writes records of the same kind that ``labelled`` does not hold."""

    def write(folder: Path) -> Path:
        return write_shards(folder, make_records({"N": 6, "A": 6, "O": 6, "~": 6}, first=5000))

    return write


@pytest.fixture
def small() -> Callable[..., FinetuneConfig]:
    """A config for ``labelled``: narrow network, few epochs; dotted groups can be overridden by dictionaries."""

    def make(
        shards: Path, *, data: dict[str, Any] | None = None, protocol: dict[str, Any] | None = None, **changes: Any
    ) -> FinetuneConfig:
        return replace(
            FinetuneConfig(
                recipe="test",
                data=replace(FinetuneDataConfig(shards=str(shards), fs=100.0, seconds=10.0), **(data or {})),
                protocol=replace(ProtocolConfig(seeds=2, epochs=3, batch_size=16), **(protocol or {})),
                model=ResNet(width=4),
            ),
            **changes,
        )

    return make


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and sums of one thread are the same on any machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
