"""Rhythm classification: which rhythm the frame is in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ecgray.databases.record import RHYTHMS
from ecgray.tasks.annotated import BEATS_APART, ELSE, AnnotatedTask, Int64, most
from ecgray.tasks.base import Annotations

UNDEFINED, NOISE, NORMAL, AFIB, AFLUT, OTHER = (
    RHYTHMS.index(name) for name in ("undefined", "noise", "normal", "afib", "aflut", "other")
)


@dataclass(frozen=True, kw_only=True)
class Rhythm(AnnotatedTask):
    """The rhythm with most of the frame's samples, where some go before others; other counts like undefined.

    paper: the longer of AFib and AFlut if there is any of them (ties AFib), else the longer of noise and normal (ties
    noise), and undefined where none of the four covers any of the frame; rhythms are half-open zones.
    code: the longest of undefined, AFib and AFlut if there is any of them, else the longer of noise and normal, else
    undefined, ties the first; each beat carries the rhythm of its zone back to the beat before it.

    The paper's noise is in the raw release of Icentia11K alone: in WFDB files it has no annotation (papers.md W6), so
    that noise with a zone of another rhythm beside it is labelled by that, and without one is undefined.
    """

    name: ClassVar[str] = "rhythm"
    every_class: ClassVar[tuple[str, ...]] = ("undefined", "noise", "normal", "afib", "aflut")
    no_answer: ClassVar[str] = "undefined"

    def unanswered(self, *, beats: int, rhythm_seconds: float) -> str:
        if rhythm_seconds and not beats and self.rule == "code":
            return (
                "beats, and the rule 'code' reads the rhythm beat by beat; take the rule 'paper' (--task.rule paper),"
                f" or records with annotated beats ({BEATS_APART})"
            )
        what = "rhythms of its classes, but others" if rhythm_seconds else "rhythms"
        return f"{what}; take records with annotated rhythms, or {ELSE}"

    def answers(self, record: Int64, start: Int64, frame_size: int, annotations: Annotations) -> Int64:
        if self.rule == "paper":
            samples = annotations.rhythm_durations(record, start, start + frame_size)
            before = samples[:, [AFIB, AFLUT]]
            first = np.array([AFIB, AFLUT])[most(before)]
        else:
            samples = annotations.rhythm_durations_by_beat(record, start, start + frame_size)
            before = samples[:, [UNDEFINED, AFIB, AFLUT]]
            before[:, 0] += samples[:, OTHER]
            first = np.array([UNDEFINED, AFIB, AFLUT])[most(before)]
        after = samples[:, [NOISE, NORMAL]]
        rest = np.where(after.any(axis=1), np.array([NOISE, NORMAL])[most(after)], UNDEFINED)
        return np.where(before.any(axis=1), first, rest)
