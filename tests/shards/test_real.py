"""Shard sets of real recordings beside what wfdb reads and counts."""

from __future__ import annotations

import csv
import shutil
from collections import Counter

import numpy as np
import pytest
import wfdb

from ecgray.databases import DATABASES
from ecgray.shards.archive import open_archive
from ecgray.shards.ingest import ingest

NORMAL, PAC, PVC = set("NLRejnB"), set("AJS"), set("VEr")
NO_BEAT = set('~|x"[]+')


@pytest.mark.parametrize("fs", [None, 250.0])
def test_mitdb_counts_equal_wfdb(real_data, tmp_path, fs):
    names = ["108", "114", "201", "202", "207", "219", "222", "231"]
    (tmp_path / "mitdb").mkdir()
    for name in names:
        for file in (real_data / "mitdb").glob(f"{name}.*"):
            shutil.copy(file, tmp_path / "mitdb")
    names = sorted(file.stem for file in (tmp_path / "mitdb").glob("*.hea"))
    manifest = ingest(DATABASES["mitdb"](), tmp_path / "mitdb", tmp_path / "out", fs=fs, workers=0, progress=False)
    counts: Counter[str] = Counter()
    beats = 0
    for name in names:
        annotation = wfdb.rdann(str(tmp_path / "mitdb" / name), "atr")
        counts.update(annotation.symbol)
        beats += sum(symbol not in NO_BEAT for symbol in annotation.symbol)
    assert sum(manifest.beats.values()) == beats
    assert manifest.beats["normal"] == sum(counts[symbol] for symbol in NORMAL)
    assert manifest.beats["pac"] == sum(counts[symbol] for symbol in PAC)
    assert manifest.beats["aberrated"] == counts["a"]
    assert manifest.beats["pvc"] == sum(counts[symbol] for symbol in PVC)
    archive = open_archive([tmp_path / "out"])
    for i, name in enumerate(archive.record_id):
        annotation = wfdb.rdann(str(tmp_path / "mitdb" / name), "atr")
        expected = annotation.sample[[symbol not in NO_BEAT for symbol in annotation.symbol]]
        np.testing.assert_allclose(archive.beats(i)[0], expected * (fs or 360) / 360, atol=0.5001)
        if fs is None:
            record = wfdb.rdrecord(str(tmp_path / "mitdb" / name), channel_names=["MLII"])
            np.testing.assert_allclose(archive.signal_mv(i)[0], record.p_signal[:, 0], atol=1e-5)


def test_cinc2017_labels_and_moments_equal_wfdb(real_data, tmp_path):
    source = real_data / "cinc2017" / "training2017"
    root = tmp_path / "training2017"
    root.mkdir()
    for header in sorted(source.glob("A*.hea"))[::50]:
        shutil.copy(header, root)
        shutil.copy(header.with_suffix(".mat"), root)
    shutil.copy(source / "REFERENCE-v3.csv", root)
    manifest = ingest(DATABASES["cinc2017"](), tmp_path, tmp_path / "out", workers=0, progress=False)
    labels = dict(csv.reader((source / "REFERENCE-v3.csv").open()))
    names = sorted(file.stem for file in root.glob("*.hea"))
    assert manifest.labels == dict(sorted(Counter(labels[name] for name in names).items()))
    values = np.concatenate([np.fromfile(root / f"{name}.mat", "<i2", offset=24) for name in names]) / 1000
    assert (manifest.mean_mv, manifest.sd_mv) == (pytest.approx(values.mean()), pytest.approx(values.std()))


def test_icentia11k_counts_equal_wfdb(real_data, tmp_path):
    manifest = ingest(DATABASES["icentia11k"](), real_data / "icentia11k", tmp_path / "out", workers=0, progress=False)
    counts = Counter(wfdb.rdann(str(real_data / "icentia11k/p00/p00000/p00000_s00"), "atr").symbol)
    assert manifest.beats == {"undefined": counts["Q"], "normal": counts["N"], "pac": 0, "aberrated": 0, "pvc": 0}
