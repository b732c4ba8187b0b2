"""Heart rate classification: how fast the heart beats in and around the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ecgray.tasks.annotated import BEATS_APART, AnnotatedTask, Int64
from ecgray.tasks.base import Annotations

TACHYCARDIA, BRADYCARDIA, NORMAL, NOISE = range(4)


@dataclass(frozen=True, kw_only=True)
class HeartRate(AnnotatedTask):
    """60 / mean RR interval in seconds: bradycardia below 60, tachycardia above 100, noise where there is no interval.

    paper: R peaks in the frame extended by 1 s at both ends, two of them at least. code: positions in the closed frame
    [start, end] without the first of them, two of them at least. A recording without any known beat reads as noise: let
    the ingest detect beats where there are no annotations, or drop the undefined frames.
    """

    name: ClassVar[str] = "heart_rate"
    every_class: ClassVar[tuple[str, ...]] = ("tachycardia", "bradycardia", "normal", "noise")
    no_answer: ClassVar[str] = "noise"

    def unanswered(self, *, beats: int, rhythm_seconds: float) -> str:
        if beats:
            return "two beats in one frame; take longer frames (--sampling.frame-size), or records with more beats"
        return (
            f"beats; take annotated records ({BEATS_APART}), or let the ingest find the beats:"
            " 'ecgray ingest ... --detect-beats'"
        )

    def window(self, frame_size: int, fs: float) -> tuple[int, int]:
        extra = self._extra(fs)
        return extra, frame_size + extra

    def answers(self, record: Int64, start: Int64, frame_size: int, annotations: Annotations) -> Int64:
        extra = self._extra(annotations.fs)
        if self.rule == "paper":
            beats, first, _, last = annotations.beat_extent(record, start - extra, start + frame_size + extra)
        else:
            beats, _, first, last = annotations.beat_extent(record, start, start + frame_size + 1)
            beats = beats - 1
        # 60 * intervals / seconds against 60 and 100, in whole numbers: both ends are exactly normal.
        intervals, samples = (beats - 1) * annotations.fs, last - first
        rated = np.select([3 * intervals > 5 * samples, intervals < samples], [TACHYCARDIA, BRADYCARDIA], NORMAL)
        return np.where(beats >= 2, rated, NOISE).astype(np.int64, copy=False)

    def _extra(self, fs: float) -> int:
        """Samples by which the labelled window reaches beyond the frame at either end."""
        return round(fs) if self.rule == "paper" else 0
