"""Every way in which a file can be bad gives RecordRefused with one line, through every database that reads WFDB."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ecgray.databases import CinC2017, Database, Folder, Icentia11k, MitBih, RecordRefused, Reference

Writer = Callable[..., Path]
Wave = npt.NDArray[np.int64]


def missing_header(path: Path) -> None:
    path.with_suffix(".hea").unlink()


def missing_signal(path: Path) -> None:
    path.with_suffix(".dat").unlink()


def cut_signal(path: Path) -> None:
    file = path.with_suffix(".dat")
    file.write_bytes(file.read_bytes()[:-10])


def empty_signal(path: Path) -> None:
    path.with_suffix(".dat").write_bytes(b"")


def no_signal(path: Path) -> None:
    path.with_suffix(".hea").write_text("r 0 250 1000\n")


def no_rate(path: Path) -> None:
    edit(path, " 250 ", " 0 ")


def negative_length(path: Path) -> None:
    edit(path, " 1000", " -1000")


def absurd_length(path: Path) -> None:
    edit(path, " 1000", " 999999999999")


def absurd_offset(path: Path) -> None:
    edit(path, " 16 ", " 16+99999999999999 ")


def absurd_skew(path: Path) -> None:
    edit(path, " 16 ", " 16:999999999 ")


def absurd_frame(path: Path) -> None:
    edit(path, " 16 ", " 16x999999999 ")


def unknown_format(path: Path) -> None:
    edit(path, " 16 ", " 17 ")


def false_compression(path: Path) -> None:
    edit(path, " 16 ", " 516 ")


def huge_compression(path: Path) -> None:
    edit(path, " 1000", " 1000000000")
    edit(path, " 16 ", " 516 ")


def no_voltage(path: Path) -> None:
    edit(path, "/mV", "/mmHg")


def binary_header(path: Path) -> None:
    path.with_suffix(".hea").write_bytes(bytes(range(256)) * 4)


def parent_folder(path: Path) -> None:
    (path.parent.parent / "x.dat").write_bytes(path.with_suffix(".dat").read_bytes())
    edit(path, "r.dat", "../x.dat")


def absolute_path(path: Path) -> None:
    edit(path, "r.dat", "/etc/hostname")


def endless_name(path: Path) -> None:
    edit(path, "r.dat", "x" * 5000)


def endless_name_with_a_null(path: Path) -> None:
    edit(path, "r.dat", "x" * 500 + "\0" + "x" * 500)


def web_address(path: Path) -> None:
    edit(path, "r.dat", "http://example.org/r.dat")


def linked_signal(path: Path) -> None:
    file = path.with_suffix(".dat")
    os.replace(file, path.parent.parent / "x.dat")
    file.symlink_to(path.parent.parent / "x.dat")


def linked_header(path: Path) -> None:
    os.replace(path.with_suffix(".hea"), path.parent.parent / "x.hea")
    path.with_suffix(".hea").symlink_to(path.parent.parent / "x.hea")


def linked_annotations(path: Path) -> None:
    (path.parent.parent / "x.atr").write_bytes(b"\0\0")
    path.with_suffix(".atr").symlink_to(path.parent.parent / "x.atr")


def signal_is_a_folder(path: Path) -> None:
    path.with_suffix(".dat").unlink()
    path.with_suffix(".dat").mkdir()


def cut_annotations(path: Path) -> None:
    path.with_suffix(".atr").write_bytes(b"\x05\x04\x05")


def foreign_annotations(path: Path) -> None:
    path.with_suffix(".atr").write_bytes(5 * (1 << 10 | 400).to_bytes(2, "little") + b"\0\0")


def constant(path: Path) -> None:
    np.full(1000, 7, "<i2").tofile(path.with_suffix(".dat"))


def all_missing(path: Path) -> None:
    np.full(1000, -32768, "<i2").tofile(path.with_suffix(".dat"))


def edit(path: Path, old: str, new: str) -> None:
    header = path.with_suffix(".hea")
    text = header.read_text()
    assert old in text
    header.write_text(text.replace(old, new, 1))


CASES: list[tuple[Callable[[Path], None], str]] = [
    (missing_header, "header .* is missing"),
    (missing_signal, "signal file r.dat is missing"),
    (cut_signal, "holds 995 of 1000 samples"),
    (empty_signal, "holds 0 of 1000 samples"),
    (no_signal, "the header says that the record has no signals"),
    (no_rate, "sampling rate"),
    (negative_length, "must not be negative"),
    (absurd_length, "beyond the limit"),
    (absurd_offset, "cut off"),
    (absurd_skew, "skews"),
    (absurd_frame, "samples per frame"),
    (unknown_format, "format 17 is unknown"),
    (false_compression, "r.dat cannot be read as FLAC: "),
    (huge_compression, "too short"),
    (no_voltage, "no lead is a voltage"),
    (binary_header, "unreadable"),
    (parent_folder, "outside the record's folder"),
    (absolute_path, "outside the record's folder"),
    (web_address, "missing"),
    (endless_name, "cannot be used"),
    (endless_name_with_a_null, "signal file x+ is missing"),
    (linked_signal, r"outside the record's folder; copy the records with links followed \(cp -rL\)"),
    (linked_annotations, "outside the record's folder; copy"),
    (linked_header, "outside the record's folder; copy"),
    (signal_is_a_folder, "missing"),
    (cut_annotations, "cut off"),
    (foreign_annotations, "3 of 5 annotations lie outside its 1000 samples"),
    (constant, "constant"),
    (all_missing, "every sample of lead ecg is missing"),
]


@pytest.mark.parametrize(("spoil", "reason"), CASES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("database", [Icentia11k(), MitBih(lead="ecg"), CinC2017(), Folder()], ids=lambda d: d.name)
def test_refused_with_one_reason(
    tmp_path: Path, write_record: Writer, wave: Wave, database: Database, spoil: Callable[[Path], None], reason: str
) -> None:
    path = write_record(tmp_path / "p" / "r", wave, leads=["ecg"])
    reference = Reference(record="r", patient="p", path=path)
    assert database.read(reference).signal.shape == (1, 1000)
    spoil(path)
    with pytest.raises(RecordRefused, match=reason) as refusal:
        database.read(reference)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 250


def test_an_age_of_five_thousand_digits(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    path = write_record(tmp_path / "r", wave, leads=["ecg"])
    with path.with_suffix(".hea").open("a") as header:
        header.write(f"# {'9' * 5000} M\n")
    assert MitBih(lead="ecg").read(Reference(record="r", patient="r", path=path)).attributes == {}


def test_a_link_inside_the_folder_is_followed(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    path = write_record(tmp_path / "r", wave)
    os.replace(tmp_path / "r.dat", tmp_path / "other.dat")
    (tmp_path / "r.dat").symlink_to("other.dat")
    assert Folder().read(Reference(record="r", patient="r", path=path)).signal.shape == (1, 1000)


def test_random_bytes_never_raise_anything_else(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    rng = np.random.default_rng(0)
    path = write_record(tmp_path / "r", wave, marks=[(50 * n + 1, "N", "(N") for n in range(10)])
    originals = {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".hea", ".dat", ".atr")}
    refused = 0
    for trial in range(300):
        suffix = (".hea", ".dat", ".atr")[trial % 3]
        for other, content in originals.items():
            path.with_suffix(other).write_bytes(content)
        spoiled = bytearray(originals[suffix])
        for _ in range(rng.integers(1, 4)):
            spoiled[rng.integers(len(spoiled))] = rng.integers(256)
        path.with_suffix(suffix).write_bytes(bytes(spoiled[: rng.integers(len(spoiled) // 2, len(spoiled) + 1)]))
        try:
            Folder().read(Reference(record="r", patient="r", path=path))
        except RecordRefused:
            refused += 1
    assert refused > 50
