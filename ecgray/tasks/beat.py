"""Beat classification: which abnormal beat, if any, is in the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ecgray.databases.record import BEATS
from ecgray.tasks.annotated import BEATS_APART, ELSE, AnnotatedTask, Int64, most
from ecgray.tasks.base import Annotations

ABNORMAL = [BEATS.index(name) for name in ("pac", "aberrated", "pvc")]


@dataclass(frozen=True, kw_only=True)
class Beat(AnnotatedTask):
    """The most frequent abnormal kind among the frame's beats, ties in the order PAC, aberrated, PVC.

    Without an abnormal beat, paper: normal if there is a normal beat, else undefined; beats are R peaks in
    [start, end). code: the more frequent of undefined and normal, ties undefined; positions are ends of beats in
    [start, end], of which the first is left out, since its beat may begin before the frame.
    """

    name: ClassVar[str] = "beat"
    every_class: ClassVar[tuple[str, ...]] = BEATS
    no_answer: ClassVar[str] = "undefined"

    def unanswered(self, *, beats: int, rhythm_seconds: float) -> str:
        if beats:
            return (
                "beats of a known class, and a detector tells none; take records with annotated beats, a detector's as"
                f" normal ('ecgray ingest ... --beats-are normal'), or {ELSE}"
            )
        return f"beats; take records with annotated beats ({BEATS_APART}), or {ELSE}"

    def answers(self, record: Int64, start: Int64, frame_size: int, annotations: Annotations) -> Int64:
        undefined, normal = BEATS.index("undefined"), BEATS.index("normal")
        if self.rule == "paper":
            counts = annotations.beat_counts(record, start, start + frame_size)
            is_normal = counts[:, normal] > 0
        else:
            counts = annotations.beat_counts(record, start, start + frame_size + 1, skip_first=True)
            is_normal = counts[:, normal] > counts[:, undefined]
        abnormal = counts[:, ABNORMAL]
        kind = np.array(ABNORMAL, np.int64)[most(abnormal)]
        return np.where(abnormal.any(axis=1), kind, np.where(is_normal, normal, undefined))
