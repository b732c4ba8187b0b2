"""The stream on Ray Data: tasks anywhere in the cluster cut blocks, this process slices batches off them.

The dataset is made where it is consumed, inside the training worker, and begins at the step asked for: a dataset handed
to the trainer would begin at its start again after every restart of the workers. Signals stay int16, one task yields
many large blocks, and a block is what Ray Data counts as one, so that nothing is joined, cut or copied on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ecgray.errors import EcgrayError, Passing
from ecgray.sampling.plan import Plan
from ecgray.sampling.ray_nodes import free_nodes
from ecgray.sampling.stream import Archive, Batch, cut_block, step_bytes
from ecgray.shards.storage import StorageLost

BLOCK_BYTES = 24 << 20
"""Signal in a block. Ray Data spends a fixed time on each, so blocks of 8 MB cost half as much again; from 32 MB on,
the C library gives memory back to the system after every block, and clearing it anew costs a tenth."""

BLOCKS_PER_TASK = 20
TASKS_PER_DATASET = 64
"""A long run is a row of datasets of 1,280 blocks, so that no list of its tasks is ever made."""

TASK_CPUS = (1.0, 0.5, 0.25)
"""What a task may ask for: the most that leaves every stream a task."""

TASKS = 2
"""Tasks of a stream at a time, where there are CPUs for them: the second begins before the first ends. Blocks come in
order, so what further ones cut would lie in the object store until their turn."""

BLOCKS_AHEAD = 4
"""Blocks that a task may have yielded and Ray Data not looked at yet. It looks when every task has one for it, or after
a tenth of a second: with its own 2, two tasks stand still most of that time, and deliver half as much as with 4."""

BLOCKS_ALIVE = 24
"""Blocks of a stream in the object store, which Ray Data keeps to but for a third (31 were seen). Its own bound is a
share of the whole store for each stream, as if it were alone: a slow consumer let 83 gather."""

Columns = dict[str, np.ndarray]


def stream_ray(
    archive: Archive, plan: Plan, task: Any, first_step: int, last_step: int, lanes: Sequence[int], world: int = 1
) -> Iterator[Batch]:
    """One Batch per step; see ``ecgray.sampling.stream.open_stream``. Batches are views of read-only blocks.

    Raises Passing when the cluster has no CPU left for Ray Data.
    """
    share = cpu_share(world)
    rows = len(lanes) * plan.lane_batch
    steps = max(1, BLOCK_BYTES // step_bytes(archive, plan, task, lanes))
    blocks = _blocks(archive, plan, task, first_step, last_step, tuple(lanes), steps, share)
    return _batches(blocks, rows, first_step * rows, last_step * rows)


def cpu_share(world: int) -> tuple[float, int]:
    """(CPUs of a task, tasks at a time) for each of ``world`` streams, so that none can take the last CPU of another.

    A task whose consumer waits keeps its CPU. If it were the one that another rank's stream needs, and the consumer
    waited for that rank, both would wait for ever. What counts is what training workers and trials reserve for good,
    node by node, not what runs this moment. Raises Passing when they leave too little (a node may have gone since the
    workers were given their places): Ray Data would wait without a word.
    """
    import ray

    free = [node.get("CPU", 0.0) for node in free_nodes()]
    for cpus in TASK_CPUS:
        slots = sum(int(left / cpus + 1e-6) for left in free)
        if slots >= world:
            return cpus, min(slots // world, TASKS)
    total = ray.cluster_resources().get("CPU", 0.0)
    raise Passing(
        f"Ray Data needs {TASK_CPUS[-1]:g} CPU for each of {world} training workers beside what they hold, got "
        f"{sum(free):g} of {total:g} left; give the workers fewer CPUs, add a node, or take the local stream."
    )


def _blocks(
    archive: Archive,
    plan: Plan,
    task: Any,
    first_step: int,
    last_step: int,
    lanes: tuple[int, ...],
    steps: int,
    share: tuple[float, int],
) -> Iterator[Columns]:
    import ray.data

    source = ray.put((ray.cloudpickle.dumps(archive), plan, task))
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context._max_num_blocks_in_streaming_gen_buffer = BLOCKS_AHEAD
    block_bytes = steps * step_bytes(archive, plan, task, lanes)
    bound = ray.data.ExecutionResources.for_limits(object_store_memory=BLOCKS_ALIVE * block_bytes)
    context.execution_options.resource_limits = bound
    # Below what a task yields and above two thirds of it: each yield is one block, neither joined to the next nor cut.
    context.target_max_block_size = int(0.9 * block_bytes)
    steps_per_task = steps * BLOCKS_PER_TASK
    for first in range(first_step, last_step, steps_per_task * TASKS_PER_DATASET):
        last = min(first + steps_per_task * TASKS_PER_DATASET, last_step)
        stretches = [
            {"first": begin, "last": min(begin + steps_per_task, last)} for begin in range(first, last, steps_per_task)
        ]
        with ray.data.DataContext.current(context):
            # Items, not a range: reading a range is a task too, which would want a CPU of its own.
            blocks = ray.data.from_items(stretches, override_num_blocks=len(stretches)).map_batches(
                _cutter(source, lanes, steps),
                batch_size=1,
                batch_format="numpy",
                zero_copy_batch=True,
                num_cpus=share[0],
                compute=ray.data.TaskPoolStrategy(size=share[1]),
            )
            batches = blocks.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
        yield from batches


def _cutter(source: Any, lanes: tuple[int, ...], steps: int) -> Callable[[Columns], Iterator[Columns]]:
    """What a Ray Data task runs: its stretch of steps, block by block."""

    def cut(batch: Columns) -> Iterator[Columns]:
        try:
            archive, plan, task = _fetch(source)
            rows = len(lanes) * plan.lane_batch
            for first, last in zip(batch["first"].tolist(), batch["last"].tolist(), strict=True):
                for step in range(first, last, steps):
                    # No name holds the block: its memory is free when the next one needs some.
                    yield _columns(
                        cut_block(archive, plan, task, step, min(step + steps, last), lanes),
                        step * rows,
                        bool(task.negatives),
                    )
        except EcgrayError as error:
            # As a block of its own: raised here, its one line would arrive inside two pages of tracebacks.
            yield {"error": np.array([str(error)]), "lost": np.array([isinstance(error, StorageLost)])}

    return cut


_fetched: dict[str, Any] = {}


def _fetch(source: Any) -> Any:
    """The archive, plan and task of a run; kept in a worker process, with their open maps and computed pools."""
    import ray

    key = source.hex()
    if key not in _fetched:
        archive, plan, task = ray.get(source)
        _fetched.clear()
        _fetched[key] = ray.cloudpickle.loads(archive), plan, task
    return _fetched[key]


def _batches(blocks: Iterator[Columns], rows: int, position: int, end: int) -> Iterator[Batch]:
    """Batches of ``rows`` frames off blocks of any length, which must continue each other from ``position`` to ``end``.

    Raises RuntimeError where they do not, and the EcgrayError that a task met.
    """
    rest: Batch | None = None
    for columns in blocks:
        if "error" in columns:
            raise (StorageLost if columns["lost"][0] else EcgrayError)(str(columns["error"][0]))
        if not len(columns["signal"]):
            continue
        given, block = _block(columns)
        if given != position:
            raise RuntimeError(f"Ray Data gave frame {given} where frame {position} is due")
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
    if position != end:
        raise RuntimeError(f"Ray Data ended at frame {position} where frame {end} is due")


def _columns(block: Batch, position: int, slots: bool) -> Columns:
    """The integers as one column of rows: a tensor, which Ray Data takes as it is. Of a column of scalars it asks every
    value for its type, which costs a sixth of a task's time."""
    integers = [position + np.arange(len(block)), block.target, block.record, block.start]
    return {"signal": block.signal, "integers": np.column_stack([*integers, block.slot_record] if slots else integers)}


def _block(columns: Columns) -> tuple[int, Batch]:
    """The block and its first position; its positions must follow each other."""
    position, target, record, start = np.ascontiguousarray(columns["integers"][:, :4].T)
    slots = columns["integers"][:, 4:] if columns["integers"].shape[1] > 4 else record[:, None]
    if (np.diff(position) != 1).any():
        raise RuntimeError(f"Ray Data gave frames {position[0]} to {position[-1]} out of order")
    return int(position[0]), Batch(columns["signal"], target, record, start, slots)


def _join(one: Batch, two: Batch) -> Batch:
    names = ("signal", "target", "record", "start", "slot_record")
    return Batch(*(np.concatenate([getattr(one, name), getattr(two, name)]) for name in names))
