"""The stream on Ray Data: tasks anywhere in the cluster cut blocks, this process slices batches off them.

The dataset is made where it is consumed, inside the training worker, and begins at the step asked for: a dataset handed
to the trainer would begin at its start again after every restart of the workers. Signals stay int16, one task yields
many large blocks, and a block is what Ray Data counts as one, so that nothing is joined, cut or copied on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ecgray.errors import EcgrayError
from ecgray.sampling.plan import Plan
from ecgray.sampling.stream import Archive, Batch, cut_block, steps_per_block

BLOCK_BYTES = 32 << 20
"""Signal in a block. Ray Data spends a fixed time on each, so blocks under 8 MB halve the rate or worse."""

BLOCKS_PER_TASK = 16
TASKS_PER_DATASET = 64
"""A long run is a row of datasets of 1,024 blocks, so that no list of its tasks is ever made."""

TASK_CPUS = 1.0

Columns = dict[str, np.ndarray]


def stream_ray(
    archive: Archive, plan: Plan, task: Any, first_step: int, last_step: int, lanes: Sequence[int]
) -> Iterator[Batch]:
    """One Batch per step; see ``ecgray.sampling.stream.open_stream``. Batches are views of read-only blocks.

    Raises EcgrayError when the cluster has no CPU left for Ray Data.
    """
    check_cpus()
    rows = len(lanes) * plan.lane_batch
    steps = steps_per_block(archive, plan, task, lanes, BLOCK_BYTES)
    return _batches(_blocks(archive, plan, task, first_step, last_step, tuple(lanes), steps), rows, first_step * rows)


def check_cpus() -> None:
    """Raises EcgrayError when training workers and trials hold every CPU: Ray Data would wait without a word.

    What counts is what is reserved for good, not what runs this moment: tasks of other ranks come and go.
    """
    import ray
    from ray.util import placement_group_table

    total = ray.cluster_resources().get("CPU", 0.0)
    groups = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
    reserved = sum(bundle.get("CPU", 0.0) for group in groups for bundle in group["bundles"].values())
    if total - reserved < TASK_CPUS:
        raise EcgrayError(
            f"Ray Data needs {TASK_CPUS:g} CPU beside the training workers, got {total - reserved:g} of "
            f"{total:g} left; give the workers fewer CPUs, add a node, or take the local stream."
        )


def _blocks(
    archive: Archive, plan: Plan, task: Any, first_step: int, last_step: int, lanes: tuple[int, ...], steps: int
) -> Iterator[Columns]:
    import ray.data

    source = ray.put((archive, plan, task))
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Below what a task yields and above two thirds of it: each yield is one block, neither joined to the next nor cut.
    context.target_max_block_size = int(0.9 * _block_bytes(archive, plan, task, lanes, steps))
    steps_per_task = steps * BLOCKS_PER_TASK
    for first in range(first_step, last_step, steps_per_task * TASKS_PER_DATASET):
        last = min(first + steps_per_task * TASKS_PER_DATASET, last_step)
        tasks = -(-(last - first) // steps_per_task)
        with ray.data.DataContext.current(context):
            blocks = ray.data.range(tasks, override_num_blocks=tasks).map_batches(
                _cutter(source, first, last, lanes, steps, steps_per_task),
                batch_size=1,
                batch_format="numpy",
                zero_copy_batch=True,
                num_cpus=TASK_CPUS,
            )
            batches = blocks.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
        try:
            yield from batches
        except EcgrayError as error:
            raise _innermost(error) from None


def _innermost(error: BaseException) -> BaseException:
    """The error that a task raised, out of the ones that Ray wraps around it with their tracebacks."""
    while getattr(error, "cause", None) is not None:
        error = error.cause  # type: ignore[attr-defined]
    return error


def _block_bytes(archive: Archive, plan: Plan, task: Any, lanes: Sequence[int], steps: int) -> int:
    """Bytes of signal in a block of ``steps`` steps."""
    return steps * (1 << 40) // steps_per_block(archive, plan, task, lanes, 1 << 40)


def _cutter(
    source: Any, first: int, last: int, lanes: tuple[int, ...], steps: int, steps_per_task: int
) -> Callable[[Columns], Iterator[Columns]]:
    """What a Ray Data task runs: its stretch of steps, block by block."""

    def cut(batch: Columns) -> Iterator[Columns]:
        archive, plan, task = _fetch(source)
        rows = len(lanes) * plan.lane_batch
        for number in batch["id"].tolist():
            begin = first + number * steps_per_task
            for step in range(begin, min(begin + steps_per_task, last), steps):
                block = cut_block(archive, plan, task, step, min(step + steps, last), lanes)
                columns = {
                    "position": step * rows + np.arange(len(block)),
                    "signal": block.signal,
                    "target": block.target,
                    "record": block.record,
                    "start": block.start,
                }
                if task.negatives:
                    columns["slot_record"] = block.slot_record
                yield columns

    return cut


_fetched: dict[str, Any] = {}


def _fetch(source: Any) -> Any:
    """The archive, plan and task of a run; kept in a worker process, with their open maps and computed pools."""
    import ray

    key = source.hex()
    if key not in _fetched:
        _fetched.clear()
        _fetched[key] = ray.get(source)
    return _fetched[key]


def _batches(blocks: Iterator[Columns], rows: int, position: int) -> Iterator[Batch]:
    """Batches of ``rows`` frames off blocks of any length, which must continue each other from ``position`` on."""
    rest: Batch | None = None
    for columns in blocks:
        block = _block(columns)
        if not len(block):
            continue
        if columns["position"][0] != position or columns["position"][-1] != position + len(block) - 1:
            raise RuntimeError(f"Ray Data gave frame {columns['position'][0]} where frame {position} is due")
        position += len(block)
        first = 0
        if rest is not None:
            first = min(rows - len(rest), len(block))
            rest = _join(rest, block.rows(0, first))
            if len(rest) < rows:
                continue
            yield rest
            rest = None
        whole = first + (len(block) - first) // rows * rows
        for row in range(first, whole, rows):
            yield block.rows(row, row + rows)
        if whole < len(block):
            rest = block.rows(whole, len(block))


def _block(columns: Columns) -> Batch:
    record = columns["record"]
    slots = columns.get("slot_record", record[:, None])
    return Batch(columns["signal"], columns["target"], record, columns["start"], slots)


def _join(one: Batch, two: Batch) -> Batch:
    names = ("signal", "target", "record", "start", "slot_record")
    return Batch(*(np.concatenate([getattr(one, name), getattr(two, name)]) for name in names))
