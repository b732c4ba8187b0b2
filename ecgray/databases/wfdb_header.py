"""WFDB header files (.hea): what a record says of itself.

The format: https://physionet.org/physiotools/wag/header-5.htm. Fields that are left out have the values that it
states. Time and date are left unread, since copies of one record write them in several forms and nothing here needs
them; so are counter, ADC resolution, checksum and block size. CRLF and trailing blanks are taken as they come.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ecgray.databases.record import RecordRefused
from ecgray.errors import quoted

MV_PER_UNIT = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "\u00b5v": 1e-3, "\u03bcv": 1e-3, "nv": 1e-6}
"""Millivolts per physical unit, unit in lower case; a signal in any other unit is no ECG lead."""

FS_RANGE_HZ = (1.0, 1e6)
"""Sampling rates of a signal outside which a header's is a mistake, or the signal is no ECG."""
MAX_FRAME_RATE_HZ = 1e6
MAX_VALUES = 2**31
"""Leads times samples that a record may hold: three months of one lead at 250 Hz, 4 GiB as int16."""
GAIN_RANGE = (1e-3, 1e10)
"""ADC units per mV outside which a gain is a mistake (real ones seen: 50 to 2,000,000)."""
UNCALIBRATED = 200.0
"""ADC units per physical unit where the header gives none, as WFDB prescribes."""

NO_FILE = "~"
"""In place of a signal file's name: a signal without samples, as in the layouts of multi-segment records."""
_LARGEST = 4 * 2**20
"""Bytes of a header; that of a record of a month has a tenth."""

_FORMAT = re.compile(r"(\d{1,3})(?:x(\d{1,9}))?(?::(-?\d{1,9}))?(?:\+(\d{1,18}))?")
_GAIN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\(([-+]?\d{1,12})\))?(?:/(\S*))?")
# ADC resolution, ADC zero, initial value, checksum and block size; the name may follow any of them.
_NUMBERS = re.compile(r"(?:[-+]?\d+(?:\.\d*)?(?:\s+|$)){0,5}")


@dataclass(frozen=True)
class SignalLine:
    """One signal of a header. ``gain`` is in ADC units per mV, whatever unit the header uses; ``unit`` in lower case.

    ``samples_per_frame``, ``skew`` (samples of this signal before its sample 0), ``byte_offset`` and ``initial`` (the
    value that differences start from) as WFDB defines them. ``calibrated``: whether the header gives a gain;
    ``unit_given``: whether it gives a unit.
    """

    file: str
    format: str
    samples_per_frame: int
    skew: int
    byte_offset: int
    gain: float
    baseline: int
    unit: str
    name: str
    initial: int = 0
    calibrated: bool = True
    unit_given: bool = True

    @property
    def voltage(self) -> bool:
        """Whether the signal is a voltage, so possibly an ECG lead."""
        return self.unit in MV_PER_UNIT


@dataclass(frozen=True)
class Header:
    """A single-segment header. ``fs``: frames per second; each holds ``samples_per_frame`` samples of a signal, and
    annotations count frames. ``frames``: how many there are, None where that is left to the signal file's size."""

    fs: float
    frames: int | None
    signals: tuple[SignalLine, ...]
    comments: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(line.name for line in self.signals)

    def rate(self, signal: int) -> float:
        """Samples per second of a signal. Where frames hold several, to a millionth: a third of a frame per second, as
        a header writes it, times 750 samples is 250 Hz."""
        count = self.signals[signal].samples_per_frame
        return self.fs if count == 1 else round(self.fs * count, 6)


def read_header(path: Path) -> Header:
    """The header at ``path`` (without suffix).

    Raises RecordRefused for a header that is missing, malformed, multi-segment, without signals or of absurd numbers.
    """
    lines = _lines(path)
    fields = [line for line in lines if line and not line.startswith("#")]
    if not fields:
        raise RecordRefused("the header is empty")
    fs, frames, count = _record_line(fields[0].split())
    if count < 1:
        raise RecordRefused("the header says that the record has no signals")
    if len(fields) - 1 < count:
        raise RecordRefused(f"the header announces {count} signals and describes {len(fields) - 1 or 'none'}")
    if frames is not None and frames * count > MAX_VALUES:
        raise RecordRefused(f"the header's {count} x {frames} samples are beyond the limit of {MAX_VALUES} values")
    header = Header(
        fs=fs,
        frames=frames,
        signals=tuple(_signal_line(line, number) for number, line in enumerate(fields[1 : count + 1])),
        comments=tuple(line[1:].strip() for line in lines if line.startswith("#")),
    )
    if all(line.file == NO_FILE for line in header.signals):
        raise RecordRefused("the header is the layout of a multi-segment record, which has no samples of its own")
    highest = max(range(count), key=header.rate)
    if not header.rate(highest) >= FS_RANGE_HZ[0]:
        refuse_rate(header, highest)
    return header


def refuse_rate(header: Header, signal: int) -> None:
    """RecordRefused when the rate of the signal is a mistake."""
    (low, high), rate, count = FS_RANGE_HZ, header.rate(signal), header.signals[signal].samples_per_frame
    if not low <= rate <= high:
        product = f" ({count} samples in each of {header.fs:g} frames per second)" if count > 1 else ""
        raise RecordRefused(
            f"the sampling rate must lie from {low:g} to {high:g} Hz, the header says {rate:g}{product}"
        )


@dataclass(frozen=True)
class Outline:
    """What a header says before it is understood. segments: the records that a multi-segment one strings together;
    files: the signal files that any other names; comments: their texts, without #."""

    segments: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    comments: tuple[str, ...] = ()


def read_outline(path: Path) -> Outline:
    """The outline of the header at ``path`` (without suffix), empty where there is none that can be read (reading the
    record will say why)."""
    try:
        lines = _lines(path)
    except (RecordRefused, OSError, ValueError):
        return Outline()
    fields = [line.split() for line in lines if line and not line.startswith("#")]
    comments = tuple(line[1:].strip() for line in lines if line.startswith("#"))
    first = tuple(dict.fromkeys(words[0] for words in fields[1:] if words[0] != NO_FILE))
    multi = bool(fields) and _is_multi_segment(fields[0][0])
    return Outline(segments=first if multi else (), files=() if multi else first, comments=comments)


def _is_multi_segment(name: str) -> bool:
    """Whether the first word of a header, ``name/segments``, is that of a multi-segment one."""
    return re.fullmatch(r".*/\s*\d+", name) is not None


def _lines(path: Path) -> list[str]:
    file = path.with_name(path.name + ".hea")
    refuse_outside(path.parent, file.name)
    if not file.is_file():  # a pipe would never end
        raise RecordRefused("the header (.hea) is missing, or is not a file")
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except OSError as error:
        raise RecordRefused(f"the header (.hea) cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise RecordRefused(f"the header (.hea) is no header: it has more than {_LARGEST // 2**20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return [line.strip() for line in text.splitlines()]


def refuse_outside(folder: Path, name: str) -> Path:
    """``folder / name``; RecordRefused when that leaves the folder (``..``, an absolute path, a symbolic link)."""
    path = folder / name
    try:
        plain = "/" not in name and "\\" not in name and name not in ("", ".", "..")
        if not (plain and not path.is_symlink()) and not path.resolve().is_relative_to(folder.resolve()):
            advice = "; copy the records with links followed (cp -rL)" if path.is_symlink() else ""
            raise RecordRefused(f"the file {quoted(name)} lies outside the record's folder{advice}")
    except (ValueError, RuntimeError, OSError) as error:
        raise RecordRefused(f"the file name {quoted(name)} cannot be used: {str(error)[:100]}") from None
    return path


def _whole(text: str) -> int:
    """An integer of at most 18 characters, so that no reason that shows it is long; ValueError otherwise."""
    if len(text) > 18:
        raise ValueError
    return int(text)


def _record_line(fields: list[str]) -> tuple[float, int | None, int]:
    if _is_multi_segment(fields[0]):
        raise RecordRefused("the header is multi-segment; its segments are records of their own, of one patient")
    if "/" in fields[0]:
        raise RecordRefused(
            f"the header's first line names the record {quoted(fields[0], 60)}, and WFDB allows no slash there but that"
            " before a number of segments; take the folder out of the name"
        )
    try:
        count = _whole(fields[1])
        fs = float(fields[2].split("/")[0].split("(")[0]) if len(fields) > 2 else 250.0
        frames = _whole(fields[3]) if len(fields) > 3 else 0
    except (IndexError, ValueError):
        raise RecordRefused(f"the header's first line is unreadable: {quoted(' '.join(fields), 80)}") from None
    if not 0 < fs <= MAX_FRAME_RATE_HZ:
        raise RecordRefused(
            f"the sampling rate must be above 0 and at most {MAX_FRAME_RATE_HZ:g} Hz, the header says {fs:g}"
        )
    if frames < 0:
        raise RecordRefused(f"the number of samples must not be negative, the header says {frames}")
    return fs, frames or None, count  # 0: unspecified, as if missing


def _signal_line(line: str, number: int) -> SignalLine:
    fields = line.split(maxsplit=3)
    rest = fields[3] if len(fields) > 3 else ""
    numbers = _NUMBERS.match(rest)
    name = rest[numbers.end() if numbers else 0 :].strip()
    integers = numbers[0].split() if numbers else []
    form = _FORMAT.fullmatch(fields[1]) if len(fields) > 1 else None
    gain_field = _GAIN.fullmatch(fields[2]) if len(fields) > 2 else _GAIN.fullmatch("0")
    try:
        adc_zero = _whole(integers[1]) if len(integers) > 1 else 0
        initial = _whole(integers[2]) if len(integers) > 2 else adc_zero
    except ValueError:
        form = None
    if form is None or gain_field is None:
        raise RecordRefused(f"the header's line of signal {number} is unreadable: {quoted(line, 80)}")
    unit = (gain_field[3] or "mV").lower()
    stated = float(gain_field[1])  # 0, as one left out, means "uncalibrated"
    gain = (stated or UNCALIBRATED) / MV_PER_UNIT.get(unit, 1.0)
    baseline = int(gain_field[2]) if gain_field[2] is not None else adc_zero
    if unit in MV_PER_UNIT and not GAIN_RANGE[0] <= abs(gain) <= GAIN_RANGE[1]:
        raise RecordRefused(f"the gain of signal {number} is absurd: {gain:g} units per mV")
    if abs(baseline) > 2**31 or abs(initial) > 2**31:
        what = "baseline" if abs(baseline) > 2**31 else "initial value"
        raise RecordRefused(f"the {what} of signal {number} is absurd: {baseline if what == 'baseline' else initial}")
    return SignalLine(
        file=fields[0],
        format=form[1],
        samples_per_frame=int(form[2] or 1) or 1,
        skew=max(int(form[3] or 0), 0),
        byte_offset=int(form[4] or 0),
        gain=gain,
        baseline=baseline,
        unit=unit,
        name=name or f"signal {number}",
        initial=initial,
        calibrated=stated != 0,
        unit_given=bool(gain_field[3]),
    )
