"""Pretraining tasks by name."""

from __future__ import annotations

from ecgray.tasks.base import IGNORED, Annotations, Task
from ecgray.tasks.beat import Beat
from ecgray.tasks.future import FuturePrediction
from ecgray.tasks.heart_rate import HeartRate
from ecgray.tasks.rhythm import Rhythm

TASKS: dict[str, type[Task]] = {task.name: task for task in (Beat, Rhythm, HeartRate, FuturePrediction)}
Task.table = TASKS

__all__ = ["IGNORED", "TASKS", "Annotations", "Beat", "FuturePrediction", "HeartRate", "Rhythm", "Task"]
