"""How many workers a cluster holds: node by node, with CPUs left to the data."""

from __future__ import annotations

from ecgray.training.room import Room, room_for


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
