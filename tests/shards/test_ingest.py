"""Ingest: the same bytes whatever happens, and nothing that is broken inside."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import hashlib
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from ecgray.databases import DATABASES
from ecgray.databases.record import Database, RecordRefused, Reference
from ecgray.errors import EcgrayError
from ecgray.shards import ingest as ingest_module
from ecgray.shards.archive import open_archive
from ecgray.shards.ingest import ingest

DATA = Path(__file__).parents[1] / "data"
CINC2017 = DATABASES["cinc2017"]()


def tree(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def run(out, database=CINC2017, root=DATA / "cinc2017", **options):
    return ingest(database, root, out, **{"workers": 0, "progress": False, "shard_mb": 0.02, **options})


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    out = tmp_path_factory.mktemp("ingest") / "clean"
    manifest = run(out)
    assert len(manifest.shards) > 5
    return out


@dataclass(frozen=True, kw_only=True)
class InMemory(Database):
    """Records of a dictionary; a string stands for a refusal, an exception for a reader that trips."""

    records: dict[str, object]
    name: ClassVar[str] = "memory"
    title: ClassVar[str] = ""
    licence: ClassVar[str] = "none"
    citation: ClassVar[str] = ""

    def find(self, root):
        return [Reference(record=name, patient=name, path=root / name) for name in sorted(self.records)]

    def read(self, reference):
        record = self.records[reference.record]
        if isinstance(record, str):
            raise RecordRefused(record)
        if isinstance(record, Exception):
            raise record
        return record


def in_memory(records, out, root, **options):
    database = InMemory(records=records)
    object.__setattr__(database, "__dataclass_fields__", {})  # its records are no settings
    return ingest(database, root, out, **{"workers": 0, "progress": False, **options})


def test_a_set_holds_what_its_database_reads(clean):
    archive = open_archive([clean], verify="hashes")
    references = CINC2017.find(DATA / "cinc2017")
    assert archive.record_id.tolist() == [reference.record for reference in references]
    for i, reference in enumerate(references):
        record = CINC2017.read(reference)
        np.testing.assert_array_equal(archive.cut([i], [0], record.signal.shape[1])[0], record.signal)
        assert archive.labels[i] == record.labels
        assert archive.signal_hash[i] == hashlib.sha256(record.signal.tobytes()).hexdigest()
    manifest = archive.manifests[0]
    assert manifest.licence == CINC2017.licence and manifest.ingest["database"]["labels"] == "v3"
    assert not list(clean.glob(".*")) and not list(clean.glob("*.partial*"))


def test_annotations_equal_the_records_and_one_patient_lies_side_by_side(tmp_path):
    database = DATABASES["mitdb"]()
    manifest = run(tmp_path / "out", database, DATA / "mitdb", shard_mb=0.1)
    archive = open_archive([tmp_path / "out"])
    for i, reference in enumerate(r for r in database.find(DATA / "mitdb") if r.record != "102"):
        record = database.read(reference)
        np.testing.assert_array_equal(archive.beats(i)[0], record.beats)
        np.testing.assert_array_equal(archive.beats(i)[1], record.beat_classes)
        np.testing.assert_array_equal(archive.rhythms(i), record.rhythms)
    assert manifest.refused == 1 and manifest.symbols["N"] > 0
    assert list(csv.reader((tmp_path / "out" / "refused.csv").open()))[1][0] == "102"
    assert (np.diff(archive.patient) >= 0).all()


def test_patients_with_several_records_stay_side_by_side(random_records, tmp_path):
    records = {record.id: record for record in random_records.random_records(patients=5)}
    in_memory(records, tmp_path / "out", tmp_path)
    archive = open_archive([tmp_path / "out"])
    assert (np.diff(archive.patient) >= 0).all()


def test_ray_writes_the_same_bytes_as_this_process(clean, tmp_path):
    run(tmp_path / "ray", workers=2)
    assert tree(tmp_path / "ray") == tree(clean)


def test_tasks_are_told_absolute_paths(tmp_path, monkeypatch):
    """Ray's workers may have been started in another folder than the command."""
    told, build = [], ingest_module.build_shard
    monkeypatch.setattr(ingest_module, "build_shard", lambda job, seen: told.append(job) or build(job, seen))
    monkeypatch.chdir(tmp_path)
    run(Path("out"), root=Path(os.path.relpath(DATA / "cinc2017")))
    assert told and all(job.out == tmp_path / "out" for job in told)
    assert all(reference.path.is_absolute() for job in told for reference in job.references)


def test_killed_at_every_write_and_run_again_gives_the_same_bytes(tmp_path):
    """A process that dies before its n-th fsync or rename, for every n; then a second that finishes."""
    script = f"""
import os, signal
from pathlib import Path
import pandas  # which pyarrow would import in every child
from ecgray.databases import DATABASES
from ecgray.shards.ingest import ingest

def run(n):
    child = os.fork()
    if child == 0:
        steps = 0
        def dying(call):
            def step(*arguments, **options):
                nonlocal steps
                if steps == n:
                    os.kill(os.getpid(), signal.SIGKILL)
                steps += 1
                return call(*arguments, **options)
            return step
        os.fsync, os.rename, os.replace = dying(os.fsync), dying(os.rename), dying(os.replace)
        ingest(DATABASES["cinc2017"](), {str(DATA / "cinc2017")!r}, "out", workers=0, progress=False, shard_mb=0.08)
        os._exit(0)
    return os.waitpid(child, 0)[1]

whole = run(-1)
assert whole == 0
os.rename("out", "whole")
n = 0
while run(n) != 0:
    assert not Path("out/manifest.json").exists() or Path("out/.ingest").exists()
    if n % 4 == 0:
        run(12)  # killed twice
    assert not Path("out/.ingest").exists() or run(-1) == 0
    os.rename("out", f"out-{{n:03d}}")
    n += 1
print(n)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
    expected = tree(tmp_path / "whole")
    for out in sorted(tmp_path.glob("out-*")):
        assert tree(out) == expected, out.name


def test_sigkill_at_random_moments_and_run_again_gives_the_same_bytes(clean, tmp_path):
    out = tmp_path / "out"
    script = (
        "import sys; from ecgray.databases import DATABASES; from ecgray.shards.ingest import ingest\n"
        f"ingest(DATABASES['cinc2017'](), {str(DATA / 'cinc2017')!r}, {str(out)!r}, workers=0, shard_mb=0.02)"
    )
    draw = np.random.default_rng(0)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
        while process.poll() is None and not (out / ".ingest").exists():
            pass
        try:
            process.wait(draw.uniform(0, 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
    if not (out / "manifest.json").exists() or (out / ".ingest").exists():
        run(out)
    assert tree(out) == tree(clean)


def test_a_finished_shard_is_kept_and_a_damaged_one_made_again(clean, tmp_path, monkeypatch):
    stopped = stop_after(3, tmp_path / "out", monkeypatch)
    kept, damaged = stopped / "shard-00000" / "signal.npy", stopped / "shard-00001" / "signal.npy"
    before = kept.stat().st_ino, damaged.stat().st_ino
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    (stopped / "shard-00007.partial-dead").mkdir()
    run(stopped)
    assert kept.stat().st_ino == before[0] and damaged.stat().st_ino != before[1]
    assert tree(stopped) == tree(clean)


def stop_after(shards, out, monkeypatch):
    """An ingest that ended by an exception after some shards."""
    from ecgray.shards import ingest as module

    build = module.build_shard

    def failing(job, *rest):
        if job.number == shards:
            raise KeyboardInterrupt
        return build(job, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "build_shard", failing)
        with pytest.raises(KeyboardInterrupt):
            run(out)
    return out


def test_an_ingest_goes_on_only_with_its_own_settings_and_records(tmp_path, monkeypatch):
    out = stop_after(2, tmp_path / "out", monkeypatch)
    with pytest.raises(EcgrayError, match="finished as it was begun, got fs 250, not None"):
        run(out, fs=250)
    with pytest.raises(EcgrayError, match="finished as it was begun, got database"):
        run(out, DATABASES["cinc2017"](labels="v2"))
    root = shutil.copytree(DATA / "cinc2017", tmp_path / "root")
    next((root / "training2017").glob("*.mat")).unlink()
    with pytest.raises(EcgrayError, match="got other records"):
        run(out, root=root)


def test_an_ingest_goes_on_only_with_its_own_pattern_of_the_patient(tmp_path, monkeypatch):
    with monkeypatch.context() as stopped:
        stopped.setattr(ingest_module, "finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", DATABASES["folder"](patient="/(A)"))
    with pytest.raises(EcgrayError, match="database"):
        run(tmp_path / "out", DATABASES["folder"](patient="/(A0)"))
    manifest = run(tmp_path / "out", DATABASES["folder"](patient="/(A)"))
    assert manifest.patients == 1 and manifest.ingest["database"]["patient"] == "/(A)"


def test_two_ingests_into_one_folder_are_not_mixed(tmp_path):
    (tmp_path / "out" / ".ingest").mkdir(parents=True)
    with (tmp_path / "out" / ".ingest" / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EcgrayError, match="one ingest, got another at work"):
            run(tmp_path / "out")


def test_outputs_that_cannot_be_used_stay_as_they_were(clean, tmp_path):
    with pytest.raises(EcgrayError, match="got a finished one; use it"):
        run(clean)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(EcgrayError, match="new or empty folder"):
        run(tmp_path / "full")
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    with pytest.raises(EcgrayError, match="can be written"):
        run(tmp_path / "full" / "thesis.tex" / "out")
    with pytest.raises(EcgrayError):
        run(tmp_path / "new", root=tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "options", [{"fs": fs} for fs in (0, -250, 1e-9, 1e12, math.inf, math.nan)] + [{"workers": -1}, {"shard_mb": 0}]
)
def test_settings_that_make_no_sense_are_refused(tmp_path, options):
    with pytest.raises(EcgrayError, match=f"{next(iter(options))} must be"):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_broken_records_stay_out_with_one_reason_each(random_records, tmp_path):
    good = {record.id: record for record in random_records.random_records(patients=4, records=1)}
    draw = np.random.default_rng(0)
    other_rate = random_records.random_record(draw, record="z1", patient="z1", fs=300.0)
    other_leads = random_records.random_record(draw, record="z2", patient="z2", leads=("I", "II"))
    bad = {"z0": "signal\nis all NaN", "z1": other_rate, "z2": other_leads, "z3": ValueError("a reader\ntripped")}
    manifest = in_memory(good | bad, tmp_path / "out", tmp_path)
    assert (manifest.records, manifest.refused) == (4, 4)
    assert list(csv.reader((tmp_path / "out" / "refused.csv").open())) == [
        ["record", "reason"],
        ["z0", "signal is all NaN"],
        ["z1", "sampled at 300 Hz, the set at 250 Hz (resample with --fs)"],
        ["z2", "2 leads, the set has 1 (take leads that all have with --lead)"],
        ["z3", "unreadable (ValueError: a reader tripped)"],
    ]


def test_what_preparing_a_record_trips_over_is_its_own_reason(random_records, tmp_path):
    records = {record.id: record for record in random_records.random_records(patients=3, records=1)}
    odd = random_records.random_record(np.random.default_rng(0), record="z0", patient="z0", fs=9999.0)
    records["z0"] = dataclasses.replace(odd, fs=0.00001)
    records["z1"] = dataclasses.replace(odd, id="z1", beats=None)
    manifest = in_memory(records, tmp_path / "out", tmp_path, fs=250.0)
    assert (manifest.records, manifest.refused) == (3, 2)
    rows = dict(csv.reader((tmp_path / "out" / "refused.csv").open()))
    assert "cannot be brought to 250 Hz" in rows["z0"] and "unreadable (TypeError" in rows["z1"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are of any bytes on Linux alone")
def test_a_file_name_that_is_not_utf8_is_refused_in_one_line(tmp_path):
    (tmp_path / "db").mkdir()
    for name in ("A00405.hea", "A00405.mat"):
        shutil.copy(DATA / "cinc2017" / "training2017" / name, tmp_path / "db")
    shutil.copy(tmp_path / "db" / "A00405.hea", os.fsencode(tmp_path / "db") + b"/r\xff.hea")
    manifest = run(tmp_path / "out", DATABASES["folder"](), tmp_path / "db")
    assert (manifest.records, manifest.refused) == (1, 1)
    rows = (tmp_path / "out" / "refused.csv").read_text().splitlines()
    assert rows == ["record,reason", "r\\udcff,its name or its folder's is not UTF-8; rename it"]


def test_two_records_of_one_name_are_refused_before_anything_is_written(tmp_path):
    for group in ("p00", "p01"):
        patient = tmp_path / "db" / group / "p00000"
        patient.mkdir(parents=True)
        (patient / "p00000_s00.hea").write_text("")
    with pytest.raises(EcgrayError, match=r"'p00000_s00' twice, in .*p00/p00000 and .*p01/p00000"):
        run(tmp_path / "out", DATABASES["icentia11k"](), tmp_path / "db")
    assert not (tmp_path / "out").exists()


def test_the_reason_of_most_records_comes_first(tmp_path):
    """Whatever the order of their names; reasons that differ by the record's own name are one."""
    records = {"a": "no samples", **{f"r{n}": f"r{n}.dat is cut off" for n in range(22)}, "s": "too short", "t": "x"}
    with pytest.raises(EcgrayError) as error:
        in_memory(records, tmp_path / "out", tmp_path)
    assert str(error.value) == (
        "'memory' must hold a usable record, got 25 refused: 22 with '*.dat is cut off' (as r0), 1 with 'no samples'"
        " (as a), 1 with 'too short' (as s), 1 with other reasons."
    )


def test_a_database_without_a_usable_record_leaves_nothing(tmp_path):
    with pytest.raises(EcgrayError, match=r"usable record, got 2 refused: 2 with 'no samples' \(as a\)"):
        in_memory({"a": "no samples", "b": "no samples"}, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_rates_are_brought_together_by_fs(random_records, tmp_path):
    draw = np.random.default_rng(0)
    records = {
        name: random_records.random_record(draw, record=name, patient=name, fs=fs, samples=int(30 * fs))
        for name, fs in (("a", 250.0), ("b", 300.0), ("c", 360.0))
    }
    manifest = in_memory(records, tmp_path / "out", tmp_path, fs=125.0)
    archive = open_archive([tmp_path / "out"])
    assert manifest.fs == 125 and manifest.refused == 0 and archive.samples.tolist() == [3750] * 3
    for i, record in enumerate(records.values()):
        np.testing.assert_allclose(archive.beats(i)[0], record.beats * 125 / record.fs, atol=0.5001)


def test_detected_beats_are_marked(random_records, tmp_path):
    draw = np.random.default_rng(0)
    annotated = random_records.random_record(draw, record="a", patient="a")
    plain = random_records.random_record(draw, record="b", patient="b", annotated=False, samples=5000)
    pulses = np.zeros(5000)
    pulses[200::220] = 1
    shape = 300 * np.convolve(pulses, np.hanning(21), "same")
    plain = type(plain)(**{**vars(plain), "signal": shape.astype(np.int16)[None]})
    in_memory({"a": annotated, "b": plain}, tmp_path / "out", tmp_path, detect_beats=True)
    archive = open_archive([tmp_path / "out"])
    assert archive.attributes[1]["beats"] == "detected" and "beats" not in archive.attributes[0]
    beats, classes = archive.beats(1)
    assert set(classes) == {0} and abs(len(beats) - 22) <= 3
    np.testing.assert_array_equal(archive.beats(0)[0], annotated.beats)
    assert archive.annotated.tolist() == [True, False]


def test_beats_are_detected_where_a_file_names_rhythms_alone(tmp_path):
    """As in the AF database, whose .atr holds no beat."""
    (tmp_path / "db").mkdir()
    for name in ("100.hea", "100.dat", "106.hea", "106.dat", "106.atr"):
        shutil.copy(DATA / "mitdb" / name, tmp_path / "db")
    (tmp_path / "db" / "100.atr").write_bytes(b"\x09\x70\x05\xfc(AFIB\0\0\0")
    run(tmp_path / "out", DATABASES["mitdb"](), tmp_path / "db", detect_beats=True)
    archive = open_archive([tmp_path / "out"])
    assert archive.annotated.tolist() == [False, True]
    assert archive.attributes[0]["beats"] == "detected" and "beats" not in archive.attributes[1]
    known = DATABASES["mitdb"]().read(Reference(record="100", patient="100", path=DATA / "mitdb" / "100")).beats
    assert abs(len(archive.beats(0)[0]) - len(known)) <= 2 and len(archive.rhythms(0)) == 1


def test_this_process_alone_imports_no_ray(tmp_path):
    script = (
        "import sys; from ecgray.databases import DATABASES; from ecgray.shards.ingest import ingest\n"
        "from ecgray.shards.archive import open_archive\n"
        f"ingest(DATABASES['cinc2017'](), {str(DATA / 'cinc2017')!r}, 'out', workers=0, progress=False)\n"
        "open_archive(['out']).cut([0], [0], 100)\n"
        "assert not {'ray', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_published_files_are_those_of_their_shard():
    names = [f"shard-{i:05d}/{name}.npy" for i in (1, 10_000, 100_001) for name in ("signal", "beats")]
    names += [f".ingest/shard-{i:05d}.ledger" for i in (1, 10_000, 100_001)]
    found = ingest_module._by_shard(dict.fromkeys([*names, ".ingest/plan.json", "records.parquet"], 7))
    for shard in ("shard-00001", "shard-10000", "shard-100001"):
        own = (f"{shard}/signal.npy", f"{shard}/beats.npy", f".ingest/{shard}.ledger")
        assert found[shard] == dict.fromkeys(own, 7)
