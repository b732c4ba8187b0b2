"""How many workers a cluster holds: node by node, with CPUs left to the data."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ecgray.errors import EcgrayError
from ecgray.training import room
from ecgray.training.room import FEWER_AFTER_S, Room, places, room_for, share, to_ask_for, wait_for


def cpu(*cpus: float) -> list[dict[str, float]]:
    return [{"CPU": count} for count in cpus]


def test_workers_leave_cpus_to_the_data() -> None:
    assert room_for(cpu(2), (2, 2), "ray") == Room(2, {"CPU": 0.5})
    assert room_for(cpu(2), (2, 2), "local") == Room(2, {"CPU": 1.0})
    assert room_for(cpu(16), (2, 2), "ray") == Room(2, {"CPU": 7.0})
    assert room_for(cpu(1), (1, 1), "ray") == Room(1, {"CPU": 0.5})
    assert room_for(cpu(2), (8, 8), "ray") is None
    assert room_for([], (1, 1), "ray") is None


def test_room_is_counted_node_by_node() -> None:
    assert room_for(cpu(2, 2, 2), (2, 2), "ray") == Room(2, {"CPU": 1.0})
    assert room_for(cpu(4, 4, 4), (4, 4), "local") == Room(4, {"CPU": 2.0})
    assert room_for(cpu(0.3, 0.3, 0.3), (1, 1), "ray") is None
    assert room_for(cpu(1, 16), (2, 2), "ray") == Room(2, {"CPU": 7.0})


def test_a_gpu_for_each_worker_and_a_core_beside_it() -> None:
    two = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}]
    assert room_for([{"CPU": 16.0, "GPU": 2.0}], (2, 2), "ray") == Room(2, {"CPU": 1.0, "GPU": 1.0})
    assert room_for([*two, {"CPU": 64.0}], (1, 4), "ray") == Room(2, {"CPU": 1.0, "GPU": 1.0})
    assert room_for(two, (3, 3), "ray") is None
    assert room_for(two, (1, 1), "ray", device="cpu") == Room(1, {"CPU": 7.0})
    assert room_for(cpu(16), (1, 2), "ray", device="cuda") is None  # none yet: an autoscaler has to start some
    assert room_for([{"CPU": 1.0, "GPU": 1.0}], (1, 1), "ray") == Room(1, {"CPU": 0.5, "GPU": 1.0})


def test_an_elastic_run_takes_a_core_for_each_worker() -> None:
    assert room_for(cpu(1, 1), (1, 4), "ray") == Room(2, {"CPU": 0.5})
    assert room_for(cpu(1), (1, 4), "ray") == Room(1, {"CPU": 0.5})
    assert room_for(cpu(4, 2), (1, 4), "local") == Room(4, {"CPU": 1.0})
    assert room_for(cpu(0.5), (1, 4), "ray") == Room(1, {"CPU": 0.25})
    assert room_for(cpu(1, 1), (3, 4), "ray") == Room(3, {"CPU": 0.25})


def test_runs_side_by_side_take_no_more_than_their_share() -> None:
    assert room_for(cpu(8, 8), (2, 2), "local", most_cpus=4.0) == Room(2, {"CPU": 4.0})
    assert room_for(cpu(1, 1), (2, 2), "local", most_cpus=4.0) == Room(2, {"CPU": 1.0})


def test_parts_of_a_gpu_are_of_one_card() -> None:
    cards = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}]
    assert [places(cards, 1.0, gpus) for gpus in (0.0, 0.25, 0.4, 1.0, 2.0, 3.0)] == [16, 8, 4, 2, 1, 0]
    assert share(cards, 4, 0.4) == 2.0 and share(cards, 5, 0.4) == 0.0


def refusal(held: str, gpu: bool) -> str:
    return f"{held}, {gpu}"


def test_what_no_autoscaler_can_mend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "may_grow", lambda: False)
    monkeypatch.setattr(room, "free_nodes", lambda: [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}])
    with pytest.raises(EcgrayError, match=r"^2 CPUs and 1 GPUs free on 2 nodes, True$"):
        wait_for(lambda nodes: None, (1, 1), None, refusal)


def test_an_autoscaler_is_asked_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts machines with a card, from none, for what no machine has left."""
    nodes: list[dict[str, float]] = [{"CPU": 0.0}]
    asked: list[list[dict[str, float]]] = []

    def ask_for(bundles: list[dict[str, float]]) -> None:
        asked.append(bundles)
        missing = len(bundles) - sum(int(node.get("GPU" if "GPU" in bundles[0] else "CPU", 0.0)) for node in nodes)
        if missing > 0:
            nodes.append({"CPU": 8.0, "GPU": 1.0})

    monkeypatch.setattr(room, "may_grow", lambda: True)
    monkeypatch.setattr(room, "free_nodes", lambda: nodes)
    monkeypatch.setattr(room, "ask_for", ask_for)
    monkeypatch.setattr(room.time, "sleep", lambda seconds: None)
    find: Callable[..., Room | None] = lambda free: room_for(free, (2, 2), "ray")  # noqa: E731
    assert wait_for(find, (2, 2), None, refusal) == Room(2, {"CPU": 1.0, "GPU": 1.0})
    assert asked == [[{"CPU": 1.0}] * 2, [{"CPU": 1.0, "GPU": 1.0}] * 2]


def test_fewer_are_asked_for_in_time() -> None:
    asked = [to_ask_for(1, 64, step * FEWER_AFTER_S) for step in range(8)]
    assert asked == [64, 32, 16, 8, 4, 2, 1, 1]
    assert to_ask_for(3, 3, 1e6) == 3 and to_ask_for(2, 9, room.PATIENCE_S) == 2
