"""How busy the training loop keeps a GPU: ResNet-18 and -34, three batch sizes, two precisions, three ways to run.

    python benchmarks/gpu.py [--depths 18,34] [--batches 32,256,1024] [--steps 50] [--repeats 3]

The bare loop takes one fixed random batch that lies on the GPU; ecgray's trains on beats from the local stream. Both
are timed in turn over ``steps`` steps. "of the card" is the rate of the network's multiplications and additions as a
share of what a product of two large square matrices reaches on this card in the same precision. A CUDA graph of the
whole bare step shows what is left for a loop to gain. Without a GPU this says so and ends.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bare import BareLoop, config_of, train
from measure import Bar, Spread, in_turn, keep, show_bars, show_table, words
from torch.utils.flop_counter import FlopCounterMode
from walks import write_walks

from ecgray.sampling.stream import Batch

WARM = 5
"""Steps before the clock starts."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int, repeats: int) -> float:
    """Operations per second of a product of two square matrices, the best of some."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(repeats + WARM):
        wait(device)
        begun = time.perf_counter()
        a @ b
        wait(device)
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / min(times[WARM:])


def step_operations(bare: BareLoop) -> int:
    """Operations of a forward and backward pass."""
    with FlopCounterMode(display=False) as counted:
        bare.step()
    return int(counted.get_total_flops())


def graphed(bare: BareLoop, device: torch.device) -> Callable[[], object]:
    """The whole step of ``bare`` as one CUDA graph."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            bare.step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    bare.optimiser.zero_grad()
    with torch.cuda.graph(graph):
        bare.step()
    return graph.replay


def bare_rate(step: Callable[[], object], frames: int, steps: int, device: torch.device) -> float:
    """Frames per second."""
    for _ in range(WARM):
        step()
    wait(device)
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return frames * steps / (time.perf_counter() - begun)


def loop_rate(config: Any, steps: int, device: torch.device) -> float:
    """Frames per second of ecgray's loop, from when it asks for a batch to when it asks for one ``steps`` later; what
    is still on its way to the device at either end is waited for."""
    times = []

    def around(stream: Iterator[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(stream):
            if number in (WARM, WARM + steps):
                wait(device)
                times.append(time.perf_counter())
            yield batch

    train(config, device, "local", around)
    return config.training.batch_size * steps / (times[1] - times[0])


def measure(device: torch.device, shards: Path, given: Any) -> list[dict[str, Any]]:
    """A row per network, batch size, precision and way."""
    rows = []
    rates = {name: matrix_rate(device, dtype, given.matrix, given.repeats) for name, dtype in PRECISIONS.items()}
    for depth, batch, precision in itertools.product(given.depths, given.batches, PRECISIONS):
        model = {"depth": depth, "width": given.width}
        operations = None
        for way in given.ways:
            config = config_of(
                shards,
                steps=WARM + given.steps + 1,
                model=model,
                batch_size=batch,
                precision=precision,
                compile=way == "compiled",
            )
            bare = BareLoop(config, device, compiled=way == "compiled")
            if operations is None:
                operations = step_operations(bare)
            step = graphed(bare, device) if way == "CUDA graph" else bare.step
            methods = {"bare": partial(bare_rate, step, batch, given.steps, device)}
            if way != "CUDA graph":
                methods["loop"] = partial(loop_rate, config, given.steps, device)
            runs = in_turn(methods, given.repeats)
            share = Spread.of(runs["bare"]).median * operations / batch / rates[precision]
            row = {"depth": depth, "batch": batch, "precision": precision, "way": way, "of_card": share}
            row |= {name: vars(Spread.of(values)) for name, values in runs.items()}
            if "loop" in runs:
                row["of_bare"] = vars(Spread.ratio(runs["loop"], runs["bare"]))
            rows.append(row)
    return rows


def show(rows: list[dict[str, Any]], title: str) -> None:
    cells = []
    for row in rows:
        loop = Spread(**row["loop"]).show(",.0f") if "loop" in row else ""
        share = Spread(**row["of_bare"]).show(".3f") if "of_bare" in row else ""
        numbers = (Spread(**row["bare"]).show(",.0f"), f"{100 * row['of_card']:.1f} %", loop, share)
        cells.append((f"ResNet-{row['depth']}", row["way"], row["precision"], row["batch"], *numbers))
    columns = ["network", "way", "precision", "batch", "bare, frames/s", "of the card", "ecgray, frames/s", "of bare"]
    show_table(title, columns, cells, left=3)


def main() -> None:
    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser = words(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--depths", type=numbers, default=[18, 34])
    parser.add_argument("--batches", type=numbers, default=[32, 256, 1024])
    parser.add_argument("--ways", type=lambda text: text.split(","), default=["eager", "compiled", "CUDA graph"])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--matrix", type=int, default=8192)
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("No GPU here: the GPU benchmark is left out.")
        return
    device = torch.device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    with tempfile.TemporaryDirectory(prefix="ecgray-bench-") as folder:
        rows = measure(device, write_walks(Path(folder) / "walks", megabytes=80), given)
    show(rows, f"Training steps on {name}, frames of 2,048 samples")
    bars = [
        Bar(
            f"ResNet-{r['depth']}, {r['way']}, {r['precision']}, {r['batch']}: loop / bare",
            r["of_bare"]["median"],
            0.95,
        )
        for r in rows
        if "of_bare" in r
    ]
    show_bars(bars)
    keep(given.out, "gpu", {"device": name, "rows": rows}, bars)


if __name__ == "__main__":
    main()
