"""litdata and mosaicml-streaming over frames written in their formats, in a process of an environment of their own.

``Peers`` is the benchmark's side. Run as a program (by their environment's Python) this file is the other side: it
takes requests as JSON, a line each, and answers in the same way. Both libraries read the frames in the order in which
they were written, which is fully mixed already: shuffling costs them nothing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from delivery import Batches, measure

PACKAGES = {"litdata": "litdata", "streaming": "mosaicml-streaming"}
CHUNK_BYTES = 64 << 20


class Peers:
    """A process of ``python`` that writes frames in each library's format and delivers them when asked to."""

    def __init__(self, python: str | Path) -> None:
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).resolve())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions: dict[str, str] = self._ask(what="versions")

    def write(self, folder: Path, signal: np.ndarray, target: np.ndarray) -> None:
        """signal: int16 (n, leads, samples); target (n,)."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "signal.npy", signal)
        np.save(folder / "target.npy", target)
        self._ask(what="write", folder=str(folder))

    def deliver(self, folder: Path, library: str, workers: int, batch: int, copy: bool) -> dict[str, float]:
        """What ``delivery.measure`` says of the batches of ``library``, through a loader with ``workers`` processes."""
        return self._ask(what="deliver", folder=str(folder), library=library, workers=workers, batch=batch, copy=copy)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of the peers ended at {request['what']!r}; its messages are above")
        return json.loads(line)


class Sample:
    """Frame ``i`` as litdata writes it; a class, so that its worker process can take it along."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, i: int) -> dict[str, Any]:
        signal, target = load(self._folder)
        return {"signal": np.array(signal[i]).ravel(), "target": int(target[i])}


@lru_cache(maxsize=1)
def load(folder: str) -> tuple[np.ndarray, np.ndarray]:
    return np.load(f"{folder}/signal.npy", mmap_mode="r"), np.load(f"{folder}/target.npy")


@lru_cache(maxsize=1)
def streaming() -> Any:
    """mosaicml-streaming. It imports torchvision, for data sets that are not used here, whose compiled operators load
    beside the torch of one build alone; where they do not, the two that are asked for at import are declared."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(operators)
    import streaming.base.util

    return streaming


_declared: list[Any] = []


def write(folder: str) -> None:
    """The frames of ``folder`` in both formats, below it."""
    import litdata

    MDSWriter = streaming().MDSWriter
    signal, target = load(folder)
    litdata.optimize(
        fn=Sample(folder),
        inputs=list(range(len(target))),
        output_dir=f"{folder}/litdata",
        chunk_bytes=CHUNK_BYTES,
        num_workers=1,
    )
    columns = {"signal": f"ndarray:int16:{signal[0].size}", "target": "int"}
    with MDSWriter(out=f"{folder}/streaming", columns=columns, size_limit=CHUNK_BYTES) as out:
        for frame, answer in zip(signal, target, strict=True):
            out.write({"signal": np.array(frame).ravel(), "target": int(answer)})


def batches(folder: str, library: str, workers: int, batch: int) -> Batches:
    # litdata makes it spawn, which takes its loader seconds to begin with.
    context = "fork" if workers else None
    if library == "litdata":
        from litdata import StreamingDataLoader, StreamingDataset

        loader = StreamingDataLoader(
            StreamingDataset(f"{folder}/litdata"),
            batch_size=batch,
            num_workers=workers,
            multiprocessing_context=context,
        )
    else:
        import torch

        mosaic = streaming()
        mosaic.base.util.clean_stale_shared_memory()
        data = mosaic.StreamingDataset(local=f"{folder}/streaming", batch_size=batch, shuffle=False)
        loader = torch.utils.data.DataLoader(
            data, batch_size=batch, num_workers=workers, multiprocessing_context=context
        )
    for found in loader:
        yield found["signal"].numpy(), found["target"].numpy()


def answer(request: dict[str, Any]) -> Any:
    if request["what"] == "versions":
        names = (*PACKAGES.values(), "torch", "numpy")
        return {name: version(name) for name in names} | {"python": sys.version.split()[0]}
    if request["what"] == "write":
        for library in PACKAGES:
            shutil.rmtree(Path(request["folder"]) / library, ignore_errors=True)
        return write(request["folder"])
    found = batches(request["folder"], request["library"], request["workers"], request["batch"])
    return measure(found, request["copy"])


def requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


if __name__ == "__main__":
    answers = sys.stdout
    for request in requests():
        with contextlib.redirect_stdout(sys.stderr):  # the libraries print
            reply = answer(request)
        print(json.dumps(reply), file=answers, flush=True)
