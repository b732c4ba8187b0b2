"""What every registered task promises, and the geometry of future prediction."""

from __future__ import annotations

import numpy as np
import pytest

from ecgray.config import config_hash, from_dict, to_dict
from ecgray.errors import EcgrayError
from ecgray.tasks import TASKS, FuturePrediction, HeartRate, Task


@pytest.mark.parametrize("name", TASKS)
def test_registered_tasks(name: str) -> None:
    task = TASKS[name]()
    assert task.name == name and task.paper
    assert from_dict(Task, to_dict(task)) == task
    assert config_hash(task) == config_hash(from_dict(Task, to_dict(task)))
    before, after = task.window(2048, 250.0)
    assert before >= 0 and after >= 2048 and task.span(2048) % 2048 == 0
    assert bool(task.negatives) == (not task.classes)


@pytest.mark.parametrize("name", ["beat", "rhythm", "heart_rate"])
def test_wrong_settings_are_refused(name: str) -> None:
    for field, value, near in (("rule", "papr", "paper"), ("undefined", "dropp", "drop")):
        with pytest.raises(EcgrayError, match=f"did you mean {near}") as caught:
            TASKS[name](**{field: value})
        assert "\n" not in str(caught.value)
        with pytest.raises(EcgrayError):
            from_dict(Task, {"name": name, field: value})


def test_unknown_task_and_field() -> None:
    with pytest.raises(EcgrayError, match="did you mean rhythm"):
        from_dict(Task, {"name": "rythm"})
    with pytest.raises(EcgrayError, match="did you mean rule"):
        from_dict(Task, {"name": "beat", "rules": "code"})


@pytest.mark.parametrize("fs", [128.0, 250.0, 257.0, 360.0])
def test_the_papers_heart_rate_needs_a_second_at_both_ends(fs: float) -> None:
    assert HeartRate().window(2048, fs) == (int(fs), 2048 + int(fs))
    assert HeartRate(rule="code").window(2048, fs) == (0, 2048)


@pytest.mark.parametrize(("context", "offset"), [(16, 8), (1, 0), (3, 1)])
def test_frames_of_future_prediction(context: int, offset: int) -> None:
    """Context [s, s + C F), positive [s + (C + O) F, s + (C + O + 1) F)."""
    task, frame = FuturePrediction(context=context, offset=offset, negatives=2), 512
    start = np.array([0, 7, 1000])
    positive = task.future_start(start, frame)
    np.testing.assert_array_equal(positive, start + (context + offset) * frame)
    assert task.window(frame, 250.0) == (0, (context + offset + 1) * frame)
    assert (positive + frame == start + task.window(frame, 250.0)[1]).all()
    assert task.span(frame) == (context + 1) * frame
    assert task.classes == () and task.negatives == 2


@pytest.mark.parametrize("fields", [{"context": 0}, {"offset": -1}, {"negatives": 0}])
def test_future_prediction_needs_frames(fields: dict[str, int]) -> None:
    with pytest.raises(EcgrayError, match="must be at least"):
        FuturePrediction(**fields)


def test_future_prediction_reads_no_annotations() -> None:
    with pytest.raises(EcgrayError, match="drawn"):
        FuturePrediction().targets(np.array([0]), np.array([0]), 512, None)


@pytest.mark.parametrize(
    ("name", "rule", "beats", "seconds", "missing", "way"),
    [
        ("beat", "paper", 0, 60.0, "beats; ", "--beats-annotator qrs"),
        ("beat", "code", 9, 60.0, "beats of a known class", "--beats-are normal"),
        ("heart_rate", "paper", 0, 60.0, "beats; ", "--detect-beats"),
        ("heart_rate", "code", 9, 0.0, "two beats in one frame", "--sampling.frame-size"),
        ("rhythm", "paper", 9, 0.0, "rhythms; ", "annotated rhythms"),
        ("rhythm", "code", 9, 0.0, "rhythms; ", "annotated rhythms"),
        ("rhythm", "code", 0, 60.0, "beats, and the rule 'code' reads", "--task.rule paper"),
        ("rhythm", "paper", 0, 60.0, "rhythms of its classes", "annotated rhythms"),
    ],
)
def test_what_lacks_is_said_to_lack(name: str, rule: str, beats: int, seconds: float, missing: str, way: str) -> None:
    said = TASKS[name](rule=rule).unanswered(beats=beats, rhythm_seconds=seconds)
    assert said.startswith(missing) and way in said and "\n" not in said
