"""WFDB annotation files in the MIT format, decoded in numpy; what their marks say of beats and rhythms.

The format: https://physionet.org/physiotools/wag/annot-5.htm. 16-bit words of six bits of type and ten of interval,
with fields of several words between them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ecgray.databases.record import BEATS, RHYTHMS, RecordRefused
from ecgray.databases.vocabulary import rhythm_name

SYMBOLS: dict[int, str] = dict(enumerate("NLRaVFJASEj/Q~", 1)) | {
    16: "|", 18: "s", 19: "T", 20: "*", 21: "D", 22: '"', 23: "=", 24: "p", 25: "B", 26: "^", 27: "t", 28: "+",
    29: "u", 30: "?", 31: "!", 32: "[", 33: "]", 34: "e", 35: "n", 36: "@", 37: "x", 38: "f", 39: "(", 40: ")",
    41: "r",
}  # fmt: skip
"""Symbol of every standard annotation type."""

_NOTE, _RHYTHM, _SKIP, _AUX = 22, 28, 59, 63
_RESOLUTION = re.compile(r"## time resolution: (\d+\.?\d*)")


@dataclass(frozen=True)
class AnnotationFile:
    """sample: int64 (n,); type: uint8 (n,), keys of SYMBOLS where standard; aux: (n,) str objects without their
    trailing NULs, "" for none; fs: the file's own time resolution in Hz, None where it keeps to the header's."""

    sample: npt.NDArray[np.int64]
    type: npt.NDArray[np.uint8]
    aux: npt.NDArray[np.object_]
    fs: float | None

    def counts(self) -> dict[str, int]:
        """Annotations per symbol, and per text of rhythm marks (as ``+ (AFIB``)."""
        types = np.bincount(self.type, minlength=64)
        counts = {SYMBOLS.get(code, f"type {code}"): int(n) for code, n in enumerate(types) if n}
        texts, number = np.unique(self.aux[self.type == _RHYTHM].astype(str), return_counts=True)
        return counts | {f"+ {text}": int(n) for text, n in zip(texts, number, strict=True)}

    def at_fs(self, fs: float, frame_rate: float) -> AnnotationFile:
        """The same annotations with positions in samples of a record at ``fs`` Hz, whose header has ``frame_rate``:
        where the file has no time resolution of its own, its positions are numbers of frames."""
        own = self.fs if self.fs is not None and self.fs > 0 else frame_rate
        if own == fs:
            return self
        moved = np.floor(self.sample * (fs / own) + 0.5).astype(np.int64)
        return AnnotationFile(moved, self.type, self.aux, None)

    def within(self, samples: int) -> AnnotationFile:
        """Those inside a record of ``samples``."""
        inside = (self.sample >= 0) & (self.sample < samples)
        return AnnotationFile(self.sample[inside], self.type[inside], self.aux[inside], self.fs)


def read_annotations(file: Path) -> AnnotationFile:
    """The annotations of ``file`` as wfdb.rdann gives them (the notes at sample 0 that describe the file and marks
    of type 0 left out; a mark of type 0 with an interval moves the time on); none of an empty file.

    Raises RecordRefused for a file that does not end with its end mark, or is no annotation file.
    """
    data = file.read_bytes() or b"\0\0"
    if len(data) % 2 or data[-2:] != b"\0\0":
        raise RecordRefused(f"the annotation file {file.name} is cut off (it lacks its end mark)")
    words = np.frombuffer(data, "<u2")[:-1]
    code = (words >> 10).astype(np.uint8)
    start, end = _long_fields(words, code)
    if len(end) and end[-1] > len(words):
        raise RecordRefused(f"the annotation file {file.name} is cut off (inside a field)")
    payload = np.zeros(len(words) + 1, np.int8)
    payload[start + 1] += 1
    payload[end] -= 1
    head = np.flatnonzero(np.cumsum(payload[:-1], dtype=np.int8) == 0)
    kind = code[head]
    if len(kind) and (kind[0] > _SKIP or ((kind[:-1] == _SKIP) & (kind[1:] > _SKIP)).any() or kind[-1] == _SKIP):
        raise RecordRefused(f"the annotation file {file.name} is malformed (a field without an annotation)")

    step = np.where(kind < _SKIP, words[head] & 0x3FF, 0).astype(np.int64)
    skips = np.flatnonzero(kind == _SKIP)
    at = head[skips]
    step[skips] = (words[at + 1].astype(np.int32) << 16 | words[at + 2]).astype(np.int64)
    mark = kind < _SKIP
    sample, types = np.cumsum(step)[mark], kind[mark]

    aux = np.full(len(sample), "", dtype=object)
    notes = np.flatnonzero(kind == _AUX)
    owner = np.cumsum(mark)[notes] - 1
    _decode_texts(data, head[notes], (words[head[notes]] & 0xFF).astype(np.int64), owner, aux)

    about_file = (sample == 0) & (types == _NOTE)
    found = (_RESOLUTION.match(text) for text in aux[about_file])
    fs = next((float(match[1]) for match in found if match), None)
    kept = ~about_file & (types != 0)
    return AnnotationFile(sample[kept], types[kept], aux[kept], fs)


def beats(
    annotations: AnnotationFile, symbols: Mapping[str, str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """(positions, classes) of all annotations whose symbol the table maps to one of BEATS, in time order."""
    table = np.full(256, 255, np.uint8)
    for code, symbol in SYMBOLS.items():
        if symbol in symbols:
            table[code] = BEATS.index(symbols[symbol])
    classes = table[annotations.type]
    chosen = np.flatnonzero(classes != 255)
    position = annotations.sample[chosen]
    if (np.diff(position) < 0).any():
        chosen = chosen[np.argsort(position, kind="stable")]
    return annotations.sample[chosen], classes[chosen]


def rhythms(annotations: AnnotationFile, names: Mapping[str, str], samples: int) -> npt.NDArray[np.int64]:
    """(m, 3) rows of start, end, class of the zones that rhythm marks (``+``) tell, half-open, in a record of
    ``samples``.

    ``(NAME`` opens a zone, and so does a name that ``names`` maps without its parenthesis; it runs up to the next one,
    or to a ``)`` whose own sample is its last (Icentia11K), or to the end of the record. ``(NAME)`` is a zone of one
    sample. Names that ``names`` does not map are "other".
    """
    chosen = np.flatnonzero((annotations.type == _RHYTHM) & (annotations.aux != ""))
    chosen = chosen[np.argsort(annotations.sample[chosen], kind="stable")]
    texts, which = np.unique(annotations.aux[chosen].astype(str), return_inverse=True)
    words = [rhythm_name(text) for text in texts]
    opening = [text.lstrip().startswith("(") or name in names for text, name in zip(texts, words, strict=True)]
    ending = [text.strip("\0 ").endswith(")") for text in texts]
    opens, ends = np.array(opening, bool)[which], np.array(ending, bool)[which]
    closes, single = ends & ~opens, ends & opens
    other = RHYTHMS.index("other")
    known = {name: RHYTHMS.index(rhythm) for name, rhythm in names.items()}
    kinds = np.array([known.get(name, other) for name in words], np.int64)[which]

    event = opens | closes
    start, opens, closes, single, kinds = (a[event] for a in (annotations.sample[chosen], opens, closes, single, kinds))
    following = np.append(start[1:], samples)
    closed = np.append(closes[1:], False)
    end = np.where(single, start + 1, np.where(closed, following + 1, following))
    zones = np.stack([start, np.minimum(end, samples), kinds], axis=1)[opens]
    zones[:-1, 1] = np.minimum(zones[:-1, 1], zones[1:, 0])
    return zones[zones[:, 1] > zones[:, 0]]


def _long_fields(
    words: npt.NDArray[np.uint16], code: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(start, end) of every field of more than one word: SKIP (three words) and AUX (one, and two bytes per word)."""
    start = np.flatnonzero((code == _SKIP) | (code == _AUX))
    length = np.where(code[start] == _SKIP, 3, 1 + ((words[start] & 0xFF).astype(np.int64) + 1) // 2)
    end = start + length
    # Some only look so, being the content of another. One that begins after all before it have ended is genuine; the
    # others are told by a walk.
    genuine = start >= np.maximum.accumulate(np.append(0, end))[:-1]
    last = 0
    for number in np.flatnonzero(~genuine).tolist():
        if genuine[number - 1]:
            last = end[number - 1]
        genuine[number] = start[number] >= last
    return start[genuine], end[genuine]


def _decode_texts(
    data: bytes,
    word: npt.NDArray[np.int64],
    length: npt.NDArray[np.int64],
    owner: npt.NDArray[np.int64],
    out: npt.NDArray[np.object_],
) -> None:
    """Write the text of each AUX field into ``out[owner]``: all texts of one length at once."""
    octets = np.frombuffer(data, np.uint8)
    for size in np.unique(length[length > 0]):
        same = np.flatnonzero(length == size)
        text = octets[(2 * word[same] + 2)[:, None] + np.arange(size)].view(f"S{size}")[:, 0]
        distinct, which = np.unique(text, return_inverse=True)
        out[owner[same]] = np.array([item.decode("latin-1") for item in distinct], dtype=object)[which]
