"""What a user meets at the command line: JSON for programs, and one clear line for every wrong input."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro

import ecgray
from ecgray.cli import VERBS, main
from ecgray.config import to_dict
from ecgray.databases import DATABASES
from ecgray.errors import EcgrayError
from ecgray.finetuning.config import FinetuneConfig
from ecgray.shards.writer import write_shard_set
from ecgray.training.model_folder import write_json

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def mitdb_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "mitdb"
    assert main(["ingest", "mitdb", str(DATA / "mitdb"), "--out", str(out), "--workers", "0", "--fs", "250"]) == 0
    return out


@pytest.fixture
def shards(mitdb_shards: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(mitdb_shards, tmp_path / "shards"))


SMALL = ["--model.width", "4", "--training.steps", "2", "--sampling.val-fraction", "0.3", "--training.batch-size", "8"]


def write_wfdb(path: Path, fs: int = 250, leads: Sequence[str] = ("II",), gain: float = 200.0) -> None:
    """A record of 5,000 samples in mV: a sine with an amplitude of 60,000 / gain µV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.rint(60 * np.sin(np.arange(5000) / 9 + gain)).astype(np.int16)  # else they were copies of one recording
    np.repeat(wave[:, None], len(leads), axis=1).tofile(f"{path}.dat")
    lines = [f"{path.name} {len(leads)} {fs} 5000", *(f"{path.name}.dat 16 {gain}/mV 16 0 0 0 0 {x}" for x in leads)]
    path.with_name(f"{path.name}.hea").write_text("\n".join(lines) + "\n")


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that the command leaves, with exit code 2."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("ecgray: ") and "Traceback" not in said[0]
    return said[0]


def test_inspect_json(mitdb_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(mitdb_shards), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = "records patients hours fs leads beats rhythm_seconds labels label_versions mean_mv sd_mv far_off"
    names += " gaps notes refused"
    assert list(found) == names.split()
    headers = len(list((DATA / "mitdb").glob("*.hea")))
    assert found["fs"] == 250 and found["records"] + len(found["refused"]) == headers


def test_an_ingest_says_at_its_end_whose_records_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("p1/a", "p1/b", "p2/c"):
        write_wfdb(tmp_path / "files" / name)
    (tmp_path / "files" / "p2" / "broken.hea").write_text("")
    words = ["ingest", "folder", str(tmp_path / "files"), "--workers", "0", "--out"]
    assert main([*words, str(tmp_path / "a")]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[-2:] == [
        "3 records of 2 patients, 0.017 h; 1 refused:",
        "      1  the header is empty",
    ]
    assert said.out == f"{tmp_path / 'a'}\n"
    assert main([*words, str(tmp_path / "b"), "--patient", "^p"]) == 0
    assert capsys.readouterr().err.splitlines()[-2] == "3 records of 1 patient, 0.017 h; 1 refused:"
    assert "patient must be a pattern" in refused(capsys, *words, tmp_path / "c", "--patient", "p(")


def test_an_ingest_says_at_its_end_why_records_were_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "files"
    for number in range(24):
        leads = ["CM5", "CC5", "ML"] if number < 8 else ["CC5", "CM5"] if number < 23 else ["X"]
        write_wfdb(files / f"p{number:02d}" / "r", leads=leads, fs=200 if number == 22 else 250)
    for number in (10, 11):
        (files / f"p{number}" / "r.dat").rename(files / f"p{number}" / "old.dat")
    for number, header in enumerate(["", "x", "r 0 250", "r 1 1e9"]):
        write_wfdb(files / f"q{number}" / "r")
        (files / f"q{number}" / "r.hea").write_text(header)
    words = ["ingest", "folder", str(files), "--workers", "0", "--out"]
    assert main([*words, str(tmp_path / "a")]) == 0
    assert capsys.readouterr().err.splitlines()[-7:] == [
        "12 records of 12 patients, 0.067 h; 16 refused:",
        "      8  3 leads, the set has 2 (take leads that all have with --lead)",
        "      2  the signal file *.dat is missing",
        "      1  sampled at 200 Hz, the set at 250 Hz (resample with --fs)",
        "      1  1 leads, the set has 2 (take leads that all have with --lead)",
        "      1  the header is empty",
        "      3  for other reasons; 'ecgray inspect' lists all",
    ]
    assert main([*words, str(tmp_path / "b"), "--lead", "CC5", "CM5", "--fs", "250"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert "21 records of 21 patients, 0.12 h; 7 refused:" in told
    assert "      1  it has no lead CC5; its leads are X" in told
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["leads"] == ["CC5", "CM5"]


def test_a_record_of_another_unit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(19):
        write_wfdb(tmp_path / "files" / f"p{number:02d}" / "r", gain=150 + 10 * number)
    write_wfdb(tmp_path / "files" / "p19" / "r", gain=0.2)
    out = tmp_path / "shards"
    assert main(["ingest", "folder", str(tmp_path / "files"), "--workers", "0", "--out", str(out)]) == 0
    (warned,) = (line for line in caplog.messages if "told apart" not in line)
    assert warned.startswith("1 of 20 records must be looked at") and f"'ecgray inspect {out}'" in warned
    assert "p19/r: sd of lead II 212 mV, the median 0.181 mV" in warned
    capsys.readouterr()
    assert main(["inspect", str(out), "--html", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^far_off +1\n  p19/r: sd of lead II 212 mV, the median 0.181 mV\n", said, re.MULTILINE)
    assert "<td>p19/r</td>" in (tmp_path / "page.html").read_text()
    caplog.clear()
    words = ["pretrain", "weimann2021_beat", "--data", str(out), "--out", str(tmp_path / "run"), *SMALL]
    assert main([*words, "--task", "future", "--task.context", "2", "--sampling.frame-size", "64"]) == 0
    assert warned in caplog.messages


def test_lists_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    keys = {
        "models": {"name", "leads", "classes", "parameters"},
        "recipes": {"name", "stage", "paper", "table", "row", "published"},
        "databases": {"name", "title", "licence"},
        "tasks": {"name", "paper", "classes"},
    }
    for verb, expected in keys.items():
        assert main([verb, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert rows and all(set(row) == expected for row in rows)
    assert main(["recipes", "--json"]) == 0
    by_name = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert by_name["weimann2021_table1_beat_2048"]["published"]["macro_f1"] == [0.779, 0.014]


def test_help_of_every_verb_needs_no_ray() -> None:
    code = """
import sys
from ecgray.cli import VERBS, main
for verb in VERBS:
    words = {"ingest": ["mitdb"], "pretrain": ["weimann2021_beat"], "finetune": ["weimann2021_cinc2017"]}
    words = words.get(verb, ["weimann2021_beat"] if verb == "plan" else [])
    try:
        main([verb, *words, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, verb
assert "ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("words", [["--help"], ["databases", "--json"]])
def test_a_reader_that_has_enough(words: list[str]) -> None:
    """As ``| head -1`` does: it reads a part, or nothing, and closes."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "ecgray", *words], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_as_a_module() -> None:
    words = [sys.executable, "-m", "ecgray", "ingst"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("ecgray: The command must be a known name, got 'ingst'")


FIRST = {
    "ingest": list(DATABASES),
    "pretrain": ["weimann2021_beat --objective focal", "weimann2021_future"],
    "finetune": ["weimann2021_cinc2017"],
    "sweep": ["weimann2021_pretraining"],
    "plan": ["weimann2021_beat"],
}
"""The words of a verb before its options."""


@pytest.mark.parametrize("line", [f"{verb} {words}".strip() for verb in VERBS for words in FIRST.get(verb, [""])])
def test_every_option_says_what_it_is(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsers = []

    def cli(command: Any, *, args: object, **settings: Any) -> None:
        parsers.append(tyro.extras.get_parser(command, **settings))
        raise SystemExit(0)

    monkeypatch.setattr(tyro, "cli", cli)
    with pytest.raises(SystemExit):
        main(line.split())
    said = {(*action.option_strings, action.dest)[0]: action.help or "" for action in parsers[0]._actions}
    assert len(said) > 1
    bare = [
        name for name, text in said.items() if not re.sub(r"\(?(default: .*|required|repeatable)\)?", "", text).strip()
    ]
    assert not bare


def test_near_matches(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean ingest" in refused(capsys, "ingst")
    assert "did you mean mitdb" in refused(capsys, "ingest", "mitbd", DATA, "--out", tmp_path / "o")
    assert "weimann2021_beat" in refused(capsys, "pretrain", "weiman2021_beat", "--data", shards, "--out", tmp_path)
    words = ("pretrain", "weimann2021_beat", "--data", shards, "--out", tmp_path / "o", "--training.stesp", 3)
    assert "--training.steps" in refused(capsys, *words)
    assert "beat" in refused(capsys, "label", shards, "--task", "beats", "--frames", "none.csv")
    assert not (tmp_path / "o").exists()


def test_labels_that_cannot_be_written(mitdb_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = next((DATA / "mitdb").glob("*.hea")).stem
    (tmp_path / "frames.csv").write_text(f"record,start\n{record},0\n")
    words = ("label", mitdb_shards, "--task", "beat", "--frame-size", 512, "--frames", tmp_path / "frames.csv", "--out")
    assert "nowhere/labels.csv" in refused(capsys, *words, tmp_path / "nowhere" / "labels.csv")
    assert "directory" in refused(capsys, *words, tmp_path)


def test_no_label_comes_from_changed_bytes(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = next((DATA / "mitdb").glob("*.hea")).stem
    (tmp_path / "frames.csv").write_text(f"record,start\n{record},0\n")
    file = next(shards.glob("*/beat_class.npy"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    words = ("label", shards, "--task", "beat", "--frame-size", 512, "--frames", tmp_path / "frames.csv")
    assert "beat_class.npy' must have the SHA-256" in refused(capsys, *words)


def test_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    for database in ("icentia11k", "mitdb", "cinc2017", "folder", "synthetic"):
        for root in ("missing", "empty"):
            line = refused(capsys, "ingest", database, tmp_path / root, "--out", out, "--workers", 0)
            assert str(tmp_path / root) in line
    assert "mitdb" in refused(capsys, "ingest", "icentia11k", DATA / "mitdb", "--out", out, "--workers", 0)
    assert not out.exists()


@pytest.mark.parametrize("url", ["s3://lab/holter", "gs://lab/holter", "https://lab.org/holter"])
def test_what_is_read_on_this_machine_has_no_url(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["ingest", "folder", url, "--out", tmp_path / "out", "--workers", 0], ["runs", url]):
        line = refused(capsys, *words)
        assert f"got the URL {url}; copy them here, or mount the bucket" in line
    assert not (tmp_path / "out").exists()


def test_shards(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ("pretrain", "weimann2021_beat", "--data", shards, "--out", tmp_path / "run", *SMALL)
    assert "missing" in refused(capsys, "inspect", tmp_path / "missing")
    signal = next(shards.glob("shard-*/signal.npy"))
    content = bytearray(signal.read_bytes())
    content[len(content) // 2] ^= 1
    signal.write_bytes(content)
    assert "SHA-256" in refused(capsys, *run)
    signal.write_bytes(content[: len(content) // 2])
    assert str(signal) in refused(capsys, *run)
    manifest = json.loads((shards / "manifest.json").read_text())
    (shards / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    assert "99" in refused(capsys, *run)
    assert not (tmp_path / "run").exists()


def test_frames_longer_than_every_record(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("pretrain", "weimann2021_beat", "--data", shards, "--out", tmp_path / "run", *SMALL)
    assert "10000000" in refused(capsys, *words, "--sampling.frame-size", 10_000_000).replace(",", "")
    assert not (tmp_path / "run").exists()


def test_output_that_cannot_be_written(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "run"
    assert "file" in refused(capsys, "pretrain", "weimann2021_beat", "--data", shards, "--out", out, *SMALL)
    assert "file" in refused(capsys, "ingest", "mitdb", DATA / "mitdb", "--out", out, "--workers", 0)


def test_a_run_goes_on_only_when_asked(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = ["pretrain", "weimann2021_beat", "--data", str(shards), "--out", str(run), *SMALL]
    assert main(words) == 0
    assert "--resume" in refused(capsys, *words)
    assert main([*words, "--training.steps", "3", "--resume"]) == 0
    assert (run / "checkpoints" / "step-000003" / "complete").is_file()
    assert "model.width" in refused(capsys, *words, "--resume", "--model.width", 8)
    finetune = ("finetune", "weimann2021_cinc2017", "--data", shards, "--out", tmp_path / "fine")
    assert "label" in refused(capsys, *finetune, "--pretrained", run)


def test_data_that_answers_nothing(random_records: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a beat every frame is undefined, and a network that says so is always right."""
    records = random_records.random_records(3, patients=8, records=1)
    silent = [replace(r, beats=r.beats[:0], beat_classes=r.beat_classes[:0], rhythms=r.rhythms[:0]) for r in records]
    write_shard_set(silent, tmp_path / "shards")
    words = ("pretrain", "weimann2021_beat", "--data", tmp_path / "shards", "--out", tmp_path / "run", *SMALL)
    for task in (["beat"], ["rhythm", "--task.undefined", "drop"], ["heart_rate"]):
        line = refused(capsys, *words, "--task", *task)
        assert f"what the task {task[0]} learns from" in line and "--detect-beats" in line
        assert ("weimann2021_future" in line) == (task[0] != "heart_rate")
    # Detected beats have no class: the two other tasks are not told to detect them.
    ended = [np.arange(100, r.signal.shape[1], 200) for r in silent]
    detected = [
        replace(r, beats=beats, beat_classes=np.zeros(len(beats), np.uint8))
        for r, beats in zip(silent, ended, strict=True)
    ]
    write_shard_set(detected, tmp_path / "detected")
    words = ("pretrain", "weimann2021_beat", "--data", tmp_path / "detected", "--out", tmp_path / "run", *SMALL)
    for name in ("beat", "rhythm"):
        line = refused(capsys, *words, "--task", name)
        assert "or weimann2021_heart_rate after 'ecgray ingest ... --detect-beats'" in line
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    words = ("pretrain", "weimann2021_beat", "--data", shards, "--out", tmp_path / "run", *SMALL)
    assert "must have a GPU" in refused(capsys, *words, "--device", "cuda")


def test_a_sweep_asks_for_labelled_records_by_its_own_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("sweep", "weimann2021_pretraining", "--data", tmp_path, "--out", tmp_path / "sweep")
    assert "give --downstream SHARDS" in refused(capsys, *words)


def test_random_weights_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("finetune", "weimann2021_cinc2017", "--data", tmp_path, "--out", tmp_path / "run")
    assert "--pretrained none for random weights" in refused(capsys, *words)


def test_synthetic_files_go_into_a_folder_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("labelled", tmp_path / "set", "--records", "3")
    assert main(["synthesise", *map(str, words)]) == 0
    written = sorted(tmp_path.rglob("*"))
    assert "new or empty folder" in refused(capsys, "synthesise", *words)
    assert "new or empty folder" in refused(capsys, "synthesise", "ambulatory", tmp_path / "set", "--patients", 2)
    assert sorted(tmp_path.rglob("*")) == written


def test_parts_are_exchanged_by_name(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = ["pretrain", "weimann2021_beat", "--data", str(shards), "--out", str(run), *SMALL]
    parts = ["--objective", "focal", "--objective.gamma", "1.5", "--objective.class-weights", "balanced"]
    capsys.readouterr()
    assert main([*words, *parts, "--task=rhythm", "--task.rule", "code", "--model", "resnet18_v1"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{run}\n", "what scripts read"
    assert said.err.splitlines()[-2:] == [
        f"next: ecgray finetune weimann2021_cinc2017 --data LABELLED --pretrained {run} --out RUN",
        "      or go on with more: the same command with --resume --training.steps N",
    ]
    config = json.loads((run / "config.json").read_text())
    assert config["objective"]["name"] == "focal" and config["objective"]["gamma"] == 1.5
    assert config["objective"]["class_weights"] == "balanced"
    assert (config["task"]["name"], config["task"]["rule"]) == ("rhythm", "code")
    assert (config["model"]["order"], config["model"]["width"]) == ("v1", 4)
    assert "did you mean focal" in refused(capsys, *words, "--objective", "focel")
    assert "resnet34" in refused(capsys, *words, "--model", "resnet35")
    assert "--objective.gamma" in refused(capsys, *words, "--objective.gamma", 2), "a field of another objective"


@pytest.mark.parametrize(
    "words",
    [
        "--data.seconds inf",
        "--data.seconds 1e15",
        "--data.fs inf",
        "--data.fs 0.0001 --data.seconds 600000000",
        "--protocol.first-seed 99999999999999999999",
        "--protocol.split-seed 4294967296",
        "--optimiser.learning-rate inf",
        "--optimiser.eps inf",
        "--optimiser.weight-decay inf",
        "--optimiser.clip-norm inf",
        "--objective focal --objective.gamma inf",
    ],
)
def test_numbers_beyond_use(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune = ["finetune", "weimann2021_cinc2017", "--data", tmp_path, "--out", tmp_path / "run"]
    field = words.split()[0 if "focal" not in words else 2].removeprefix("--").replace("-", "_")
    assert f"{field} must be" in refused(capsys, *finetune, *words.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--data.fs 250Hz",
            "--data.fs must be a number, got '250Hz'; see ecgray finetune weimann2021_cinc2017 --help.",
        ),
        ("--data.fs=", "--data.fs must be a number, got ''; see"),
        ("--data.records 1.5", "--data.records must be a whole number, got '1.5'; see"),
        ("--protocol.batch-size 8.5", "--protocol.batch-size must be a whole number, got '8.5'; see"),
        ("--seeds two", "--seeds must be a whole number, got 'two'; see"),
        ("--data.fs 0", "data.fs must be between 1 and 100,000 Hz, got 0.0; change it"),
        ("--model.width 0", "The width of a resnet must be from 1 to 2**24, got 0; the paper's is 64."),
    ],
)
def test_what_is_no_number(words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune = ["finetune", "weimann2021_cinc2017", "--data", tmp_path, "--out", tmp_path / "run"]
    assert refused(capsys, *finetune, *words.split()).startswith(f"ecgray: {said}")


def test_no_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("ingest", "mitdb", DATA / "mitdb", "--out", tmp_path / "out", "--fs", "250Hz")
    assert refused(capsys, *words) == "ecgray: --fs must be a number, got '250Hz'; see ecgray ingest mitdb --help."


def test_a_seed_beyond_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain = ["pretrain", "weimann2021_beat", "--data", tmp_path, "--out", tmp_path / "run"]
    assert "training.seed must be" in refused(capsys, *pretrain, "--training.seed", 2**64)


def test_a_batch_too_small_for_batch_normalisation(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("pretrain", "weimann2021_beat", "--data", shards, "--out", tmp_path / "run", *SMALL)
    short = ("--sampling.frame-size", 8, "--training.accumulation", 8)
    assert "1 x 8 samples" in refused(capsys, *words, *short)
    assert not (tmp_path / "run").exists()


def test_a_run_of_the_other_kind_or_none(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate = ("evaluate", tmp_path / "run", "--data", shards, "--out", tmp_path / "out")
    assert "run, where there is none; give" in refused(capsys, *evaluate)
    (tmp_path / "run").mkdir()
    assert "run, where there is none; give" in refused(capsys, *evaluate)
    write_json(tmp_path / "run" / "config.json", to_dict(FinetuneConfig()))
    pretrain = ("pretrain", "weimann2021_beat", "--data", shards, "--out", tmp_path / "run", *SMALL)
    assert "run, which is a finetuning run; give" in refused(capsys, *pretrain, "--resume")


def test_a_checkpoint_with_a_flipped_byte(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["pretrain", "weimann2021_beat", "--data", str(shards), "--out", str(run), *SMALL]) == 0
    weights = run / "best" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for damaged in (run, (run / "best").resolve()):
        with pytest.raises(EcgrayError, match=r"model\.safetensors has another hash"):
            ecgray.load(damaged)
    said = refused(capsys, "evaluate", run, "--data", shards, "--out", tmp_path / "out")
    assert (
        f"which is a pretraining run; finetune it first (ecgray finetune RECIPE --data LABELLED --pretrained {run}"
        in said
    )
    assert "'ecgray runs'" in said and "metrics.jsonl" in said
