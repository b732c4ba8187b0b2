"""The whole way on object storage: files to shards, two pretrainings, a kill, a resume elsewhere, seeds, a report.

    python benchmarks/on_s3.py [--workers 2]

Starts a real S3 server (moto) on loopback, and runs the command line as a user would, every place a URL, each command
with a node cache of its own, as if on another machine. The pretraining on Ray is killed with all its processes after
its second checkpoint and resumed; its weights must be those of the run that was not killed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import s3_server

from ecgray.shards.storage import list_files, read_bytes, size_of

SIZE = [
    "--model.width",
    "8",
    "--training.batch-size",
    "16",
    "--training.steps",
    "40",
    "--training.validate-every",
    "20",
]
SIZE += ["--training.checkpoint-every", "10", "--sampling.val-fraction", "0.25", "--sampling.frame-size", "512"]
SIZE += ["--training.threads", "1"]
PROTOCOL = ["--seeds", "2", "--model.width", "8", "--data.seconds", "10", "--protocol.epochs", "3"]


def command(root: Path, *words: str, kill_when: str | None = None) -> float:
    """Run ``ecgray WORDS``, on a machine without anything cached; kill it (and its group) once an object is there."""
    cache = tempfile.mkdtemp(prefix="node-", dir=root)
    print("$ ecgray", *words, flush=True)
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "ecgray", *words],
        env=os.environ | {"ECGRAY_CACHE": cache},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if kill_when is not None:
        while process.poll() is None and size_of(kill_when) is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    said = process.communicate()[1]
    seconds = time.monotonic() - began
    expected = 0 if kill_when is None else -signal.SIGKILL
    if process.returncode != expected:
        sys.exit(f"exit code {process.returncode} instead of {expected}:\n{said[-3000:]}")
    print(f"  {'killed' if kill_when else 'done'} after {seconds:.1f} s", flush=True)
    shutil.rmtree(cache, ignore_errors=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="training workers on Ray")
    workers = str(parser.parse_args().workers)
    with tempfile.TemporaryDirectory(prefix="on-s3-") as name, s3_server.running() as server:
        root, bucket = Path(name), server.bucket("ecgray")
        command(root, "synthesise", "ambulatory", f"{root}/ambulatory", "--patients", "12", "--segment-seconds", "120")
        command(root, "synthesise", "labelled", f"{root}/labelled", "--records", "80")
        for kind, ingesters in (("ambulatory", "0"), ("labelled", workers)):
            shards = f"{bucket}/shards/{kind}"
            command(root, "ingest", "synthetic", f"{root}/{kind}", "--out", shards, "--workers", ingesters)
        command(root, "inspect", f"{bucket}/shards/ambulatory")
        pretrain = ("pretrain", "weimann2021_beat", "--data", f"{bucket}/shards/ambulatory", *SIZE)
        command(root, *pretrain, "--out", f"{bucket}/runs/alone")
        command(root, *pretrain, "--out", f"{bucket}/runs/whole", "--workers", workers)
        killed = f"{bucket}/runs/killed"
        second = f"{killed}/checkpoints/step-000020/complete"
        command(root, *pretrain, "--out", killed, "--workers", workers, kill_when=second)
        command(root, *pretrain, "--out", killed, "--workers", workers, "--resume")
        weights = "checkpoints/step-000040/model.safetensors"
        if read_bytes(f"{killed}/{weights}") != read_bytes(f"{bucket}/runs/whole/{weights}"):
            sys.exit("the killed and resumed run has other weights than the whole one")
        print("killed and resumed: the weights of the run that was not killed")
        labelled = ("--data", f"{bucket}/shards/labelled", *PROTOCOL)
        none, after = f"{bucket}/runs/none", f"{bucket}/runs/from-beat"
        command(root, "finetune", "weimann2021_table1_none", *labelled, "--pretrained", "none", "--out", none)
        command(
            root,
            "finetune",
            "weimann2021_cinc2017",
            *labelled,
            "--pretrained",
            killed,
            "--out",
            after,
            "--workers",
            "2",
        )
        command(root, "report", none, after, "--out", f"{bucket}/report")
        files = list_files(f"{bucket}/report")
        print(f"{bucket}/report: {', '.join(sorted(files))}")


if __name__ == "__main__":
    main()
