"""Predictions of recordings as they lie: those of evaluate, window by window, and a reason for what cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from ecgray.cli import main
from ecgray.databases.folder import Folder
from ecgray.databases.record import Record
from ecgray.databases.wfdb_write import write_signal
from ecgray.errors import EcgrayError
from ecgray.finetuning.config import FinetuneConfig, FinetuneDataConfig, ProtocolConfig
from ecgray.finetuning.evaluate import evaluate
from ecgray.finetuning.predict import predict, summary
from ecgray.finetuning.protocol import finetune
from ecgray.models.resnet import ResNet
from ecgray.shards.ingest import ingest
from tests.finetuning.conftest import make_record, make_records, write_shards

CLASSES = ["probability_N", "probability_A", "probability_O", "probability_~"]


def write_files(folder: Path, records: Sequence[Record]) -> Path:
    """Records of one lead as WFDB files, with their labels beside them."""
    folder.mkdir(parents=True)
    for record in records:
        write_signal(folder / record.id, record.signal[0], record.fs, "200.0(0)/mV", "ECG")
    rows = [f"{record.id},{record.labels[0]}" for record in records]
    (folder / "labels.csv").write_text("\n".join(["record,label", *rows]) + "\n")
    return folder


def ingested(files: Path) -> Path:
    shards = files.with_name(f"{files.name}-shards")
    ingest(Folder(), files, shards, workers=0, progress=False)
    return shards


@pytest.fixture(scope="module", params=["before", "after"])
def run(request: pytest.FixtureRequest, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a network for 10 s at 100 Hz; records of 8 to 12 s are shorter and longer."""
    config = FinetuneConfig(
        recipe="test",
        data=FinetuneDataConfig(shards=str(labelled), fs=100.0, seconds=10.0, padding=request.param),
        protocol=ProtocolConfig(seeds=2, epochs=2, batch_size=8),
        model=ResNet(width=4),
    )
    return Path(finetune(config, tmp_path_factory.mktemp("predict") / "run"))


def test_probabilities_are_those_of_evaluate(run: Path, tmp_path: Path) -> None:
    counts = {"N": 8, "A": 6, "O": 6}
    native = write_files(tmp_path / "native", make_records(counts, first=5000))
    other = write_files(tmp_path / "other", make_records(counts, first=6000, fs=130.0))
    expected = [
        pd.read_parquet(Path(evaluate(run, ingested(files), tmp_path / f"{files.name}-out")) / "predictions.parquet")
        for files in (native, other)
    ]
    scored = pd.concat(expected).groupby("record")[CLASSES].mean()

    table = predict(run, [native, other], tmp_path / "all.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "all.parquet"), table)
    assert list(table) == ["record", "start_s", "end_s", "predicted", *CLASSES, "refused"]
    assert table["refused"].isna().all()
    windows = table.groupby("record").size()
    assert set(windows) == {1, 2}, "records shorter and longer than the network's input"
    before = json.loads((run / "config.json").read_text())["data"]["padding"] == "before"
    scored_window = table.groupby("record").nth(-1 if before else 0).set_index("record")
    assert len(scored_window) == 40
    found = scored_window.loc[scored.index]
    np.testing.assert_allclose(found[CLASSES], scored, rtol=0, atol=2e-6)
    assert (found["predicted"] == scored.idxmax(axis=1).str.removeprefix("probability_")).all()

    for files in (native, other):
        of_set = predict(run, [f"{files}-shards"], tmp_path / f"{files.name}.parquet").set_index("record")
        again = table[table["record"].isin(of_set.index)].set_index("record").loc[of_set.index.unique()]
        pd.testing.assert_frame_equal(of_set, again, rtol=0, atol=2e-6)


def test_a_long_recording_gives_a_row_per_window(run: Path, tmp_path: Path) -> None:
    signal = np.concatenate([make_record(i, "A").signal for i in range(4)], axis=1)[:, :3512]
    write_signal(tmp_path / "long", signal[0], 100.0, "200.0(0)/mV", "II")
    for i, first in enumerate((0, 1000, 2000, 2512)):
        write_signal(tmp_path / f"part{i}", signal[0, first : first + 1000], 100.0, "200.0(0)/mV", "II")
    table = predict(run, [tmp_path / "long.hea"], tmp_path / "long.csv")
    assert table["start_s"].tolist() == [0, 10, 20, 25.12] and table["end_s"].tolist() == [10, 20, 30, 35.12]
    parts = predict(run, [tmp_path / f"part{i}" for i in range(4)], tmp_path / "parts.csv")
    np.testing.assert_allclose(table[CLASSES], parts[CLASSES], rtol=0, atol=2e-6)
    assert parts["end_s"].tolist() == [10] * 4
    written = pd.read_csv(tmp_path / "long.csv", dtype=dict.fromkeys(CLASSES, "float32"))
    assert (written[CLASSES] == table[CLASSES]).all(axis=None), "the table's numbers to the last bit"


def test_a_window_that_is_mostly_missing_has_no_class(run: Path, tmp_path: Path) -> None:
    signal = np.concatenate([make_record(i, "A").signal for i in range(5)], axis=1)[:, :4000]
    spoilt = signal.copy()
    spoilt[0, 600:1400] = -32768  # 40% of two windows
    spoilt[0, 2000:2510] = -32768  # 51% of one
    write_signal(tmp_path / "whole", signal[0], 100.0, "200.0(0)/mV", "ecg")
    write_signal(tmp_path / "torn", spoilt[0], 100.0, "200.0(0)/mV", "ecg")
    table = predict(run, [tmp_path / "torn", tmp_path / "whole"], tmp_path / "out.csv")
    assert table["record"].tolist() == ["torn"] * 4 + ["whole"] * 4
    torn, whole = table[:4], table[4:].reset_index(drop=True)
    assert torn["start_s"].tolist() == [0, 10, 20, 30] and torn["end_s"].tolist() == [10, 20, 30, 40]
    assert torn["refused"].isna().tolist() == [True, True, False, True]
    assert torn["refused"][2] == "51% of the window is missing"
    assert torn.loc[2, ["predicted", *CLASSES]].isna().all()
    assert (torn[CLASSES].notna().all(axis=1) == torn["refused"].isna()).all()
    np.testing.assert_allclose(torn.loc[3, CLASSES].astype(float), whole.loc[3, CLASSES].astype(float), atol=1e-4)
    said = summary(table)
    assert said == "2 of 2 records; 1 window without a class, mostly in gaps: torn from 20 s"

    ingest(Folder(), tmp_path, tmp_path / "shards", workers=0, progress=False)
    of_set = predict(run, [tmp_path / "shards"], tmp_path / "set.csv").sort_values(["record", "start_s"])
    pd.testing.assert_frame_equal(of_set.reset_index(drop=True), table, rtol=0, atol=2e-6)


@pytest.mark.parametrize("names", [("RESP", "ECG"), ("resp", "ABP", "ii"), ("EEG C3-A2", "lead0")])
def test_the_ecg_is_predicted_wherever_it_stands(
    run: Path, tmp_path: Path, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    signal = make_record(0, "A").signal[0]
    write_signal(tmp_path / "alone", signal, 100.0, "200.0(0)/mV", "ECG")
    other = np.rint(900 * np.sin(np.arange(len(signal)) / 50))
    np.stack([other] * (len(names) - 1) + [signal], axis=1).astype("<i2").tofile(tmp_path / "beside.dat")
    lines = [f"beside.dat 16 200 16 0 0 0 0 {name}" for name in names]
    (tmp_path / "beside.hea").write_text("\n".join([f"beside {len(names)} 100 {len(signal)}", *lines, ""]))
    table = predict(run, [tmp_path / "alone", tmp_path / "beside"], tmp_path / "out.csv")
    rows = table.groupby("record")[CLASSES].first()
    np.testing.assert_array_equal(rows.loc["alone"], rows.loc["beside"])
    assert any("1 of 2 records do not say the unit" in record.getMessage() for record in caplog.records)
    chosen = predict(run, [tmp_path / "beside"], tmp_path / "chosen.csv", lead=names[-1].swapcase())
    np.testing.assert_array_equal(chosen[CLASSES].iloc[0], rows.loc["beside"])


def test_what_other_leads_lack_does_not_matter(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The network's lead is there by name: an electrode off elsewhere, for all of the time or some, changes nothing."""
    signal = make_record(0, "A").signal[0]
    other = np.full(len(signal), -(2**15))
    half = np.where(np.arange(len(signal)) < 0.7 * len(signal), -(2**15), signal)
    write_signal(tmp_path / "alone", signal, 100.0, "200.0(0)/mV", "lead0")
    for name, leads in (("off", [other, signal]), ("half", [half, signal])):
        np.stack(leads, axis=1).astype("<i2").tofile(tmp_path / f"{name}.dat")
        lines = [f"{name}.dat 16 200/mV 16 0 0 0 0 {lead}" for lead in ("V1", "Lead0")]
        (tmp_path / f"{name}.hea").write_text("\n".join([f"{name} 2 100 {len(signal)}", *lines, ""]))
    table = predict(run, [tmp_path], tmp_path / "out.csv")
    assert table["refused"].isna().all() and not caplog.messages
    rows = table.groupby("record")[CLASSES].first()
    for name in ("off", "half"):
        np.testing.assert_array_equal(rows.loc[name], rows.loc["alone"])


def test_what_looks_wrong_is_said(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    signal = make_record(0, "A").signal[0]
    write_signal(tmp_path / "slow", signal, 50.0, "200.0(0)/mV", "ECG")
    write_signal(tmp_path / "volt", signal, 100.0, "200.0(0)/V", "ECG")
    predict(run, [tmp_path / "slow"], tmp_path / "slow.csv")
    assert caplog.messages == [
        "1 of 1 records are sampled below 100 Hz, where little is left of a beat's form: slow (50 Hz)"
    ]
    caplog.clear()
    predict(run, [tmp_path / "volt"], tmp_path / "volt.csv")
    assert len(caplog.messages) == 1 and "is the unit in the headers right?" in caplog.messages[0]


def test_what_cannot_be_used_is_named_and_the_others_predicted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_files(tmp_path / "files", make_records({"N": 3}, first=5000))
    (files / "labels.csv").write_text("what,ever\n")
    (files / "R5000.atr").write_bytes(b"no annotations")
    (files / "sub").mkdir()
    (files / "sub" / "torn.hea").write_text("torn 1 100 1000\ntorn.dat 16 200/mV 16 0 0 0 0 ECG\n")
    (files / "odd.hea").write_text("odd 1 99.999 1000\nR5001.dat 16 200/mV 16 0 0 0 0 ECG\n")
    words = ["predict", str(run), str(files), str(files / "R5000"), "--out", str(tmp_path / "sub" / "out.csv")]
    assert main(words) == 0
    path, closing = capsys.readouterr().out.splitlines()
    assert path == words[-1]
    assert closing.startswith("3 of 5 records; 2 refused: odd (") and "sub/torn (" in closing
    table = pd.read_csv(path).set_index("record")
    assert sorted(table.index.unique()) == ["R5000", "R5001", "R5002", "odd", "sub/torn"]
    assert "bounded filter" in table.loc["odd", "refused"]
    bad = table.loc[["odd", "sub/torn"]]
    assert bad.drop(columns="refused").isna().all(axis=None) and bad["refused"].notna().all()
    good = table.drop(["odd", "sub/torn"])
    assert good.drop(columns="refused").notna().all(axis=None) and good["refused"].isna().all()

    assert main(words) == 2, "the table is there"
    assert "which is there; give another --out" in capsys.readouterr().err
    words = ["predict", str(run), str(files / "sub"), str(tmp_path / "none"), "--out", str(tmp_path / "bad.csv")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "0 of 2 records; 2 refused: torn (" in said and "none (the header (.hea) is missing" in said
    assert not (tmp_path / "bad.csv").exists()


def test_leads_by_name_or_as_asked(run: Path, tmp_path: Path) -> None:
    first, second = (make_record(i, "A", seed=1).signal[0, :800] for i in (1, 2))
    signals = {"one": {"V5": first}, "two": {"V5": first, "II": second}, "three": {"LEAD0": first, "II": second}}
    for name, leads in signals.items():
        wfdb.wrsamp(
            name,
            fs=100,
            units=["mV"] * len(leads),
            sig_name=list(leads),
            d_signal=np.stack(list(leads.values()), axis=1),
            fmt=["16"] * len(leads),
            adc_gain=[200.0] * len(leads),
            baseline=[0] * len(leads),
            write_dir=str(tmp_path),
        )
    table = predict(run, [tmp_path], tmp_path / "names.csv").set_index("record")
    assert "its leads are V5, II, the network's lead0; choose one with --lead" in table.loc["two", "refused"]
    np.testing.assert_array_equal(table.loc["one", CLASSES], table.loc["three", CLASSES])
    chosen = predict(run, [tmp_path], tmp_path / "chosen.csv", lead="II").set_index("record")
    assert "it has no lead II" in chosen.loc["one", "refused"]
    np.testing.assert_allclose(
        chosen.loc["two", CLASSES].astype(float), chosen.loc["three", CLASSES].astype(float), atol=1e-6
    )
    taken = predict(run, [tmp_path / "two"], tmp_path / "taken.csv", lead="V5").set_index("record")
    np.testing.assert_allclose(
        taken.loc["two", CLASSES].astype(float), table.loc["one", CLASSES].astype(float), atol=1e-6
    )


def test_what_is_no_question(run: Path, labelled: Path, tmp_path: Path) -> None:
    one, two = (write_files(tmp_path / name, make_records({"N": 1})) for name in ("one", "two"))
    out = tmp_path / "out.csv"
    for paths, said in (
        ([], "got none"),
        ([labelled, one], "or one shard set alone, got 2 places"),
        ([one, two], "'R0000' twice"),
        ([tmp_path / "out"], "header"),
    ):
        with pytest.raises(EcgrayError, match=said):
            predict(run, paths, out)
    with pytest.raises(EcgrayError, match=r"\.csv or \.parquet file, got .*out\.txt"):
        predict(run, [one], tmp_path / "out.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EcgrayError, match="is empty"):
        predict(run, [tmp_path / "empty"], out)
    twelve = write_shards(tmp_path / "twelve", make_records({"N": 2}, leads=3))
    with pytest.raises(EcgrayError, match="lead0, lead1, lead2"):
        predict(run, [twelve], out, lead="aVR")
    assert not out.exists()
    assert len(predict(run, [twelve], out, lead="lead1")) >= 2


def test_a_path_that_is_no_record_is_named_and_the_advice_works(run: Path, tmp_path: Path) -> None:
    files = write_files(tmp_path / "files", make_records({"N": 1, "A": 1}, first=7000))
    first = sorted(files.glob("*.hea"))[0].with_suffix("")
    edf = tmp_path / "holter.edf"
    edf.write_bytes((b"0       " + b" " * 160 + b"01.01.0101.01.01512     ").ljust(600))
    table = predict(run, [first.with_suffix(".dat"), edf, first], tmp_path / "a.csv")
    refused = dict(zip(table["record"], table["refused"], strict=True))
    assert refused[f"{first.name}.dat"] == (
        f"it is a file of the WFDB record {first.name}; give the record without suffix, {first}"
    )
    assert refused["holter.edf"].startswith("it is a file of the kind EDF, not read yet; write the signals as WFDB")
    assert pd.isna(refused[first.name])
    with pytest.raises(EcgrayError, match="give the record without suffix") as error:
        predict(run, [first.with_suffix(".dat")], tmp_path / "b.csv")
    assert "\n" not in str(error.value)
    for given in (first, first.with_suffix(".hea"), files):
        assert predict(run, [given], tmp_path / f"{given.suffix or given.name}.csv")["refused"].isna().all()


def test_companions_of_other_systems_are_not_predicted(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = write_files(tmp_path / "files", make_records({"N": 2}, first=7100))
    for header in list(files.glob("*.hea")):
        header.with_name(f"._{header.name}").write_bytes(b"\0\5\x16\7" + bytes(100))
    (files / "__MACOSX").mkdir()
    (files / "__MACOSX" / "x.hea").write_bytes(b"\0\5\x16\7")
    table = predict(run, [files], tmp_path / "a.csv")
    assert table["record"].nunique() == 2 and table["refused"].isna().all()
    assert any(line.startswith("3 companion files of other systems were left out") for line in caplog.messages)
