"""What a training worker tells Prometheus: gauges of Ray, which each node serves on its metrics port.

Ray puts ``ray_`` before the names, and its own labels (node, session) beside ours: ``run``, the folder, and ``rank``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

GAUGES = {
    "step": ("ecgray_train_step", "Steps done."),
    "loss": ("ecgray_train_loss", "Mean loss per frame since the last log line."),
    "frames_per_s": ("ecgray_train_frames_per_second", "Frames per second of all workers."),
    "step_s": ("ecgray_train_step_seconds", "Mean time of a step in seconds, with its wait for data."),
    "waiting_for_data": ("ecgray_train_data_wait_ratio", "Share of the time that this worker waits for its data."),
    "gpu_memory_bytes": ("ecgray_train_gpu_memory_bytes", "GPU memory that this worker holds; 0 on a CPU."),
    "validation_loss": ("ecgray_validation_loss", "Mean loss per validation frame."),
    "validation_accuracy": ("ecgray_validation_accuracy", "Share of the validation frames that are right."),
}
"""What the loop publishes -> (name of the gauge, what it says)."""


class RayMetrics:
    """The gauges of one worker; ``publish`` sets those that it is given. Setting one costs microseconds."""

    def __init__(self, run: Path, rank: int) -> None:
        from ray.util.metrics import Gauge

        self._labels = {"run": str(run), "rank": str(rank)}
        self._gauges = {
            key: Gauge(name, description=text, tag_keys=("run", "rank")) for key, (name, text) in GAUGES.items()
        }

    def publish(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._gauges[key].set(value, tags=self._labels)
