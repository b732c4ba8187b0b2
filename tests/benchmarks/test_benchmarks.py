"""The benchmarks' own parts, and their code paths at sizes that take a second."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from dataclasses import replace
from itertools import islice
from multiprocessing import shared_memory
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def beside_each_other():
    """Benchmarks find one another as scripts do: by the folder that they lie in. One thread: a step is tiny here."""
    sys.path.insert(0, str(FOLDER))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    sys.path.remove(str(FOLDER))


def benchmark(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("walks") / "walks"
    return benchmark("walks").write_walks(out, megabytes=1, samples=1 << 15)


def test_methods_take_turns_and_the_first_round_is_left_out():
    called: list[str] = []
    methods = {name: lambda name=name: called.append(name) or len(called) for name in "ab"}
    assert benchmark("measure").in_turn(methods, 2) == {"a": [3, 5], "b": [4, 6]}
    assert "".join(called) == "ababab"


def test_ratios_are_taken_round_by_round():
    spread = benchmark("measure").Spread.ratio([2.0, 40.0, 6.0], [1.0, 10.0, 2.0])
    assert vars(spread) == {"median": 3.0, "low": 2.0, "high": 4.0, "repeats": 3}


def test_bars_are_kept_with_what_was_measured(tmp_path):
    measure = benchmark("measure")
    bars = [measure.Bar("a", 0.9, least=0.9), measure.Bar("b", 3.1, most=3)]
    assert [bar.met for bar in bars] == [True, False]
    measure.keep(tmp_path / "new", "found", {"rows": [1]}, bars)
    kept = json.loads((tmp_path / "new" / "found.json").read_text())
    assert kept["rows"] == [1] and [bar["met"] for bar in kept["bars"]] == [True, False]
    assert kept["versions"]["numpy"] == np.__version__ and kept["machine"]["cores"] >= 1


@pytest.mark.parametrize("name", ["2048", "future"])
def test_all_methods_deliver_the_same_frames(walks, name):
    """The loop, the local stream and the loaders compete over equal work."""
    deliveries = benchmark("deliveries")
    setting = replace(deliveries.SETTINGS[name], frames=2048, loader_frames=1024)
    if setting.future:
        setting = replace(setting, frame_size=64)
    made = deliveries.Deliveries(setting, str(walks))

    def taken(batches, count):
        # copies: the loop uses its memory again
        return [(np.array(signal), np.array(target)) for signal, target in islice(batches, count)]

    expected = taken(made.local(), 8)
    assert len(expected) == 8
    whole_block = np.concatenate([signal for signal, _ in expected[:4]])
    np.testing.assert_array_equal(made.written()[0], whole_block)
    for got in (taken(made.loop(), 8), taken(made.loader(0, given=True), 4), taken(made.loader(0, given=False), 4)):
        assert got
        for (signal, target), (right, answer) in zip(got, expected, strict=False):
            np.testing.assert_array_equal(signal, right)
            np.testing.assert_array_equal(target, answer)


def test_delivery_counts_every_frame():
    delivery = benchmark("delivery")
    batches = [(np.zeros((4, 1, 4096), np.int16), np.zeros(4, np.int64))] * 3
    for copy in (False, True):
        found = delivery.measure(iter(batches), copy)
        assert found["first_s"] > 0 and found["whole"] > 0 and found["sustained"] > 0


def test_labelling_is_timed_for_every_task(walks):
    labelling = benchmark("labelling")
    archive = labelling.open_archive([walks])
    for task in (labelling.TASKS[0], labelling.FuturePrediction(context=2, offset=1, negatives=2)):
        cut, label = labelling.Labelling(archive, task, blocks=1)()
        assert cut > 0 and label > 0


def test_steps_of_the_loop_and_the_bare_loop_alternate(walks):
    bare = benchmark("bare")
    config = bare.config_of(walks, steps=5, model={"width": 4}, batch_size=8)
    turns = bare.in_turns(config, "local")
    assert len(turns.bare) == len(turns.loop) == len(turns.wait) == 3
    assert min(turns.bare + turns.loop) > 0


def test_the_gpu_benchmark_on_the_cpu(walks, capsys):
    gpu = benchmark("gpu")
    sizes = Namespace(matrix=16, repeats=1, depths=[18], batches=[8], width=4, steps=1, ways=["eager"])
    rows = gpu.measure(torch.device("cpu"), walks, sizes)
    gpu.show(rows, "tiny")
    assert [row["precision"] for row in rows] == ["fp32", "bf16"]
    assert all(row["of_bare"]["median"] > 0 and row["of_card"] > 0 for row in rows)
    assert "ResNet-18" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    benchmark("gpu").main()
    assert capsys.readouterr().out == "No GPU here: the GPU benchmark is left out.\n"


def test_memory_that_processes_share_is_told_from_own():
    finetune = benchmark("finetune")
    assert not finetune.is_shared(np.zeros(1 << 16))
    block = shared_memory.SharedMemory(create=True, size=1 << 16)
    try:
        array = np.frombuffer(block.buf, np.uint8)
        assert finetune.is_shared(array)
        del array
    finally:
        block.close()
        block.unlink()


def test_the_stream_is_held_against_its_bars(capsys):
    """Of given runs: the fastest of a library's ways counts, round by round, in each place."""
    stream = benchmark("stream")

    def runs(**whole: tuple[float, float]) -> dict[str, list[dict[str, float]]]:
        rates = {name.replace("_", " "): values for name, values in whole.items()}
        return {name: [{"whole": v, "sustained": v, "first_s": 0.5} for v in values] for name, values in rates.items()}

    here = runs(loop=(400e3, 200e3), local=(800e3, 400e3), ray=(300e3, 100e3), litdata_0=(100e3, 40e3))
    here |= runs(litdata_2=(20e3, 60e3), streaming_0=(1e3, 1e3), streaming_2=(2e3, 2e3))
    there = runs(loop=(400e3, 400e3), local=(400e3, 400e3), ray=(200e3, 100e3))
    places = {"driver": {"cold_s": 9.0, "runs": {"2048": here}}, "worker": {"cold_s": 1.0, "runs": {"2048": there}}}
    bars = {bar.name: bar for bar in stream.bars_of(places, "2048")}
    assert bars["2048 in this process: local / loop"].value == 2
    assert bars["2048 in this process: Ray Data / loop"].value == pytest.approx(0.625)
    assert bars["2048 in this process: Ray Data / litdata"].value == pytest.approx((3 + 100 / 60) / 2)
    assert not bars["2048 in this process: first batch in a cold cluster, s"].met
    assert not bars["2048 in a Ray Train worker: Ray Data / loop"].met
    assert bars["2048 in a Ray Train worker: Ray Data, frames/s"].value == 150e3
    stream.show(
        [row for place, found in places.items() for row in stream.rows_of(place, "2048", found["runs"]["2048"])]
    )
    benchmark("measure").show_bars(bars.values())
    shown = capsys.readouterr().out
    assert "litdata 2" in shown and "NOT MET" in shown and "at least 0.9" in shown
