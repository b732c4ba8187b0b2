"""Files that are no WFDB records are named by their content, and the advice leads on."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import wfdb

from ecgray.databases import CinC2017, Database, Folder, Icentia11k, MitBih, RecordRefused
from ecgray.databases.kinds import kind_of, listed_kinds
from ecgray.errors import EcgrayError

Writer = Callable[..., Path]
Wave = npt.NDArray[np.int64]


def edf() -> bytes:
    header = b"0       " + b"X".ljust(80) + b"Y".ljust(80) + b"01.01.01" + b"01.01.01" + b"512     "
    return header.ljust(512)


def bdf() -> bytes:
    return (b"\xffBIOSEMI" + edf()[8:]).ljust(512)


def scp() -> bytes:
    body = struct.pack("<HHIBB6s", 0, 0, 136, 13, 13, b"SCPECG").ljust(136, b"\0")
    return struct.pack("<HI", 0, len(body) + 6) + body


def mat() -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"val": np.arange(9)})
    return stream.getvalue()


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(9))
    return stream.getvalue()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.arange(9))
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("r.hea", "r 1 250")
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("r.hea"))
    return stream.getvalue()


AECG = '<?xml version="1.0"?>\n<AnnotatedECG xmlns="urn:hl7-org:v3"></AnnotatedECG>'
MUSE = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE RestingECG SYSTEM "r.dtd">\n<RestingECG></RestingECG>'

FILES: list[tuple[str, bytes, str]] = [
    ("a.edf", edf(), "EDF"),
    ("a.rec", edf(), "EDF"),
    ("noname", edf(), "EDF"),
    ("a.bdf", bdf(), "BDF"),
    ("a.ecg", b"ISHNE1.0" + bytes(600), "ISHNE"),
    ("a", bytes(128) + b"DICM" + bytes(100), "DICOM"),
    ("a.scp", scp(), "SCP-ECG"),
    ("a.bin", scp(), "SCP-ECG"),
    ("a.mat", mat(), "MATLAB"),
    ("v7.mat", b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512), "MATLAB"),
    ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    ("a.npy", npy(), "NumPy"),
    ("a.npz", npz(), "NumPy"),
    ("a.csv", b"t,mV\n0,1\n", "CSV"),
    ("a.xml", AECG.encode(), "aECG (XML)"),
    ("b.xml", AECG.encode("utf-16"), "aECG (XML)"),
    ("c.xml", MUSE.encode(), "MUSE XML"),
    ("d.xml", b"<?xml version='1.0'?><other/>", "XML"),
    ("a.zip", zipped(), "zip archive"),
    ("download", zipped(), "zip archive"),
    ("a.tar", tarred(), "tar archive"),
    ("a.tar.gz", gzip.compress(tarred()), "gzip archive"),
    ("a.dat.xz", lzma.compress(b"x"), "xz archive"),
]


SOME = FILES[:1] + FILES[4:8] + FILES[-5:]


@pytest.mark.parametrize(("name", "content", "kind"), FILES, ids=[name for name, _, _ in FILES])
def test_a_kind_is_told_by_content(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert kind_of(tmp_path / name) == kind


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", b"0       "),
        ("RECORDS", b"100\n101\n"),
        ("index.html", b"<!DOCTYPE html><html></html>"),
        ("page", b"<!DOCTYPE html><html></html>"),
        ("r.atr", b"\0\0"),
        ("empty", b""),
        ("empty.edf", b""),
        ("zero", bytes(5000)),
        ("almost", b"0       " + b"x" * 300),
    ],
)
def test_what_holds_no_recording_is_of_no_kind(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert kind_of(tmp_path / name) is None


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.edf")
    assert kind_of(tmp_path / "a.edf") is None


def test_kinds_are_listed() -> None:
    assert listed_kinds([("EDF", 3)]) == "3 EDF files"
    assert (
        listed_kinds([("EDF", 2000), ("DICOM", 2), ("zip archive", 1)])
        == "2,000 EDF files, 2 DICOM files and 1 zip archive"
    )


@pytest.mark.parametrize("database", [Folder(), MitBih(), CinC2017(), Icentia11k()], ids=lambda each: each.name)
@pytest.mark.parametrize(
    ("name", "content", "kind"), FILES[:1] + FILES[4:8] + FILES[-5:], ids=lambda each: str(each)[:9]
)
def test_a_folder_of_them_and_one_of_them_are_refused_by_name(
    tmp_path: Path, database: Database, name: str, content: bytes, kind: str
) -> None:
    (tmp_path / name).write_bytes(content)
    archive = kind.endswith("archive")
    advice = "unpack it" if archive else "write the signals as WFDB records"
    for root, words in ((tmp_path, f"none, but 1 {kind}"), (tmp_path / name, f"is a file of the kind {kind}")):
        with pytest.raises(EcgrayError) as error:
            database.find(root)
        assert words in str(error.value) and "not read yet" in str(error.value) and advice in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("database", [Folder(), MitBih(lead="lead0")], ids=lambda each: each.name)
def test_a_file_of_a_record_leads_to_its_folder(
    tmp_path: Path, write_record: Writer, wave: Wave, database: Database
) -> None:
    path = write_record(tmp_path / "my records" / "rec1", wave, marks=[(5, "N", "")])
    for given in (path.with_suffix(".dat"), path.with_suffix(".hea"), path.with_suffix(".atr"), path):
        with pytest.raises(EcgrayError) as error:
            database.find(given)
        assert str(error.value).endswith(f"give the folder it lies in, {path.parent}.")
        assert "rec1" in str(error.value)
    assert [reference.record for reference in database.find(path.parent)] == ["rec1"]


def test_signals_without_headers_are_named(tmp_path: Path) -> None:
    (tmp_path / "r1.dat").write_bytes(b"x" * 100)
    (tmp_path / "r2.dat").write_bytes(b"x" * 100)
    for database in (Folder(), MitBih()):
        with pytest.raises(
            EcgrayError, match=r"none, but 2 signal files \(\.dat\) without a header; download their \.hea"
        ):
            database.find(tmp_path)


def test_the_advice_to_write_wfdb_records_works(tmp_path: Path) -> None:
    """What the advice names is there, and what it writes is read."""
    signal = np.sin(np.arange(1000) / 9)[:, None]
    wfdb.wrsamp("r", fs=250, units=["mV"], sig_name=["ECG"], p_signal=signal, fmt=["16"], write_dir=str(tmp_path))
    (reference,) = Folder().find(tmp_path)
    assert Folder().read(reference).signal.shape == (1, 1000)


def test_a_name_with_a_slash_is_said_to_be_one(tmp_path: Path, write_record: Writer, wave: Wave) -> None:
    path = write_record(tmp_path / "r1", wave)
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("r1 1", "ward/r1 1", 1))
    (reference,) = Folder().find(tmp_path)
    with pytest.raises(RecordRefused, match="names the record 'ward/r1', and WFDB allows no slash there"):
        Folder().read(reference)
    header.write_text(header.read_text().replace("ward/r1 1", "r1 1", 1))  # as it says
    assert Folder().read(reference).signal.shape == (1, 1000)
