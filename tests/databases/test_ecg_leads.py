"""Which names are ECG leads: as PhysioNet's databases, polysomnographies and monitors spell them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ecgray.databases import Folder
from ecgray.databases.ecg_leads import are_ecg, find_lead, is_ecg, lead_for_beats, lead_key
from ecgray.databases.record import Record, RecordRefused, Reference
from ecgray.errors import EcgrayError

Writer = Callable[..., Path]
Wave = npt.NDArray[np.int64]

ECG = """
    I; II; III; i; ii; aVR; AVR; avr; aVL; AVF+; V; V1; v6; V9; V3R; V4R; MLI; MLII; MLIII; ML2; ML5; MV1; MV2
    MCL1; MCL1+; MCL6; CM2; CM4; CM5; CC5; D3; D4; E-S; A-S; A-I; ECG; ECG1; ECG 1; ECG0; ECG lead II
    ECG Lead V; ECG V Lead; lead I; Lead II; EKG; EKG1-REF; EEG EKG-REF; Holter; mod.V1; vx; VZ; V1-V2; V4-V5
    ecg_1; ECG1-ECG2; ECGL; ecgr; I+; ECG signal 0; ECG [ECG1]; ECG AVF; III+; Chest ECG; lead1; EKG II; ECG-II
    II ECG; ECG II (mV); mlii; II,; ECG lat
"""
OTHER = """
    RESP; Resp; respiration; RESP1; Resp Rate; RR; ABP; ART; BP; CVP; PAP; PLETH; PPG; PPGr; SpO2; SaO2; SAO2
    CO2; EtCO2; EEG; EEG (C4-A1); EEG Fpz-Cz; EEG(sec); C3-M2; F4-M1; O1-M2; C4:M1; C3A2; E1-M2; Chin1-Chin2
    EOG; EOG(L); EMG; EOG horizontal; EMG submental; EMG1; temp; Temp rectal; EDF Annotations; annotations
    accelerometer; ACC X; accX; marker; Marker; ABD; CHEST; AIRFLOW; Resp oro-nasal; THOR RES; ABDO RES; nasal
    Snore; Position; BodyPos; LOC; ROC; C3; C4; A1; Fp1; SCG; PCG; foot GSR; GSR; HR; ECG HR; CS12; CS90; FHR
    UC; ICP; ABP1; NBP Sys; Event marker; Status; SV; SO2; OX STAT; Light; Leg/L; TIME; BP mean; Resp (sum)
    Impedance; RESP_imp; Pulse; Lefteye; RESP,; ECG annotations; SX1-SX2; PLETH,; Resp. Imp.
"""
UNKNOWN = "signal 0; record 100, signal 1; chan 1; ST1; Direct_1; Abdomen_1; Thorax_2; lead0; noise1; a; X; LL; bw"


def names(text: str) -> list[str]:
    return [name.strip() for line in text.splitlines() for name in line.split(";") if name.strip()]


@pytest.mark.parametrize(("text", "expected"), [(ECG, True), (OTHER, False), (UNKNOWN, None)])
def test_names_as_archives_spell_them(text: str, expected: bool | None) -> None:
    assert [name for name in names(text) if is_ecg(name) is not expected] == []
    if expected is not None:
        spellings = [spelled for name in names(text) for spelled in (name.upper(), name.lower(), f"  {name} ")]
        assert [name for name in spellings if is_ecg(name) is (not expected)] == []


def test_c3_is_on_the_chest_beside_c1_and_c6_and_else_on_the_head() -> None:
    assert are_ecg(["C1", "C2", "C3", "C4", "C5", "C6"]) == [True] * 6
    assert are_ecg(["C3", "C4", "A1", "ECG"]) == [False, False, False, True]


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (["RESP", "ECG"], 1),
        (["V1", "II"], 1),
        (["V1", "mlii"], 1),
        (["II", "MLII"], 1),
        (["EEG", "ECG lead II", "ECG lead I"], 1),
        (["ECG lead V5", "ecg lead ii"], 1),
        (["ABP", "lead0", "V5"], 2),
        (["lead0", "RESP"], 0),
        (["RESP", "ABP", "EEG C3-A2"], None),
        (["ecg2", "ECG1"], 0),
    ],
)
def test_beats_are_looked_for_on_the_lead_that_shows_them(given: list[str], chosen: int | None) -> None:
    assert lead_for_beats(given) == chosen


def test_a_lead_is_found_in_any_case_the_exact_one_first() -> None:
    assert find_lead(["i", "ii"], "II") == 1
    assert find_lead(["V1", "V 2", "II,"], "v2") == 1
    assert find_lead(["V1", "V 2", "II,"], "II") == 2
    assert find_lead(["ii", "II"], "II") == 1
    assert find_lead(["ECG", "ECG"], "ecg") == 0
    with pytest.raises(RecordRefused, match="its leads ii, II differ in case alone, and none is spelled Ii"):
        find_lead(["ii", "V1", "II"], "Ii")
    with pytest.raises(RecordRefused, match="it has no lead V5; its leads are ii, V1"):
        find_lead(["ii", "V1"], "V5")
    assert lead_key(" Lead  II ") == lead_key("lead ii")


def read(path: Path, *leads: str) -> Record:
    return Folder(lead=leads).read(Reference(record=path.name, patient=path.name, path=path))


def several(write_record: Writer, path: Path, *leads: str) -> Path:
    draw = np.random.default_rng(len(leads))
    return write_record(path, draw.integers(-200, 200, (1000, len(leads))), leads=leads)


def test_what_is_no_ecg_lead_is_left_out_and_said(tmp_path: Path, write_record: Writer) -> None:
    got = read(several(write_record, tmp_path / "r", "RESP", "ii", "EEG C3-A2", "V5", "signal x"))
    assert got.leads == ("ii", "V5", "signal x")
    assert got.notes == {"left_out": "RESP, EEG C3-A2"}
    asked = read(tmp_path / "r", "RESP", "II")
    assert (asked.leads, asked.notes) == (("RESP", "II"), {})
    np.testing.assert_array_equal(asked.signal[1], got.signal[0])


def test_without_any_ecg_lead_the_signals_are_named(tmp_path: Path, write_record: Writer) -> None:
    path = several(write_record, tmp_path / "r", "RESP", "ABP")
    with pytest.raises(RecordRefused, match="ECG lead by its name, they are RESP, ABP; 'folder --lead' takes one"):
        read(path)
    assert read(path, "resp").leads == ("resp",)


def test_leads_of_one_name_are_said(tmp_path: Path, write_record: Writer) -> None:
    path = several(write_record, tmp_path / "r", "ii", "V1", "II")
    assert read(path).notes == {"same_names": "ii, II"}
    np.testing.assert_array_equal(read(path, "II").signal[0], read(path).signal[2])
    with pytest.raises(EcgrayError, match="lead must name each lead once, got 'II ii'"):
        Folder(lead=("II", "ii"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("r.dat 16 200/mV 12 0 0 0 0 II", {}),
        ("r.dat 16 200 12 0 0 0 0 II", {"no_unit": "II"}),
        ("r.dat 16 200(0)/ 12 0 0 0 0 II", {"no_unit": "II"}),
        ("r.dat 16 0/mV 12 0 0 0 0 II", {"uncalibrated": "II"}),
        ("r.dat 16 0(5)/uV 12 0 0 0 0 II", {"uncalibrated": "II"}),
        ("r.dat 16", {"no_unit": "signal 0", "uncalibrated": "signal 0"}),
    ],
)
def test_what_the_header_leaves_open_is_remarked(tmp_path: Path, line: str, expected: dict[str, str]) -> None:
    np.rint(300 * np.sin(np.arange(1000) / 9)).astype("<i2").tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text(f"r 1 250 1000\n{line}\n")
    assert read(tmp_path / "r").notes == expected
