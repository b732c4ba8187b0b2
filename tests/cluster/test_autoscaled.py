"""A cluster that begins with a head without CPUs, and an autoscaler of Ray's own that starts nodes for what is asked.

Its nodes are processes on the same host (Ray's fake provider), named by their group as `ray up` and KubeRay name them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PATIENCE_S = 900.0
pytestmark = pytest.mark.slow

FAST = [
    "--model.width 4 --sampling.frame-size 256 --sampling.frames-per-visit 16 --sampling.pool-patients 3",
    "--sampling.val-fraction 0.25 --training.steps 4 --training.batch-size 16 --training.checkpoint-every 4",
    "--training.validate-every 4 --training.threads 1",
]
SWEEP = [
    "--pretrain.model.width 4 --pretrain.sampling.frames-per-visit 16 --pretrain.sampling.pool-patients 3",
    "--pretrain.sampling.val-fraction 0.25 --pretrain.training.steps 4 --pretrain.training.batch-size 16",
    "--finetune.data.seconds 8 --finetune.data.train-fraction 0.5 --finetune.protocol.val-fraction 0.2",
    "--search.seeds 1 --search.epochs 1 --finetune.protocol.epochs 1 --probe.epochs 1 --trials 2 --final-seeds 2",
    "--search.reduction 2",
]
FINETUNE = [
    "--pretrained none --model.width 4 --data.seconds 8 --data.train-fraction 0.5 --protocol.val-fraction 0.2",
    "--protocol.epochs 1 --seeds 2 --workers 2",
]


@pytest.fixture
def head(hosts_module: ModuleType, tmp_path: Path) -> Iterator[Any]:
    """``head(command)``: what the command says on the head of a new cluster, of at most two nodes with a CPU each."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    hosts_module.require()
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    settings = {
        "cluster_name": "grows",
        "max_workers": 2,
        "idle_timeout_minutes": 10,
        "provider": {
            "type": "external",
            "module": provider,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {"CPU": 1, "object_store_memory": 150_000_000},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 2,
            },
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }
    commands = ("setup", "initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    (tmp_path / "grows.json").write_text(json.dumps(settings | {f"{name}_commands": [] for name in commands}))
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        # What `ray up` gives the head.
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": "ray.head.default",
    }
    with hosts_module.Hosts(tmp_path / "hosts", 1, environment=environment) as hosts:
        start = (
            "ray start --head --num-cpus=0 --port=6379 --include-dashboard=false --object-store-memory=150000000 "
            f"--node-ip-address=$(hostname -i) --autoscaling-config={tmp_path}/grows.json"
        )
        hosts.run(0, start, timeout=PATIENCE_S)
        yield lambda command: hosts.run(0, f"RAY_ADDRESS=auto {command}", timeout=PATIENCE_S)


def test_a_run_waits_for_its_nodes(head: Any, small_archive: Path, tmp_path: Path) -> None:
    words = f"--data {small_archive} --out {tmp_path}/run --workers 2 --backend local {' '.join(FAST)}"
    assert "Waiting for room" in head(f"python jobs/pretrain.py weimann2021_beat {words}")
    assert (tmp_path / "run" / "checkpoints" / "step-000004" / "complete").is_file()


def test_a_run_that_could_use_more_nodes_than_there_may_be(head: Any, small_archive: Path, tmp_path: Path) -> None:
    """The autoscaler starts nothing for four places, since there are two at most."""
    words = f"pretrain weimann2021_beat --data {small_archive} --out {tmp_path}/run --workers 1:4 --backend local"
    begin = "import sys; from ecgray.cli import main; from ecgray.training import room; room.FEWER_AFTER_S = 10.0"
    assert "Waiting for room" in head(f'python -c "{begin}; sys.exit(main())" {words} {" ".join(FAST)}')
    assert (tmp_path / "run" / "checkpoints" / "step-000004" / "complete").is_file()


def test_seeds_wait_for_their_nodes(head: Any, labelled_shards: Path, tmp_path: Path) -> None:
    words = f"--data {labelled_shards} --out {tmp_path}/run {' '.join(FINETUNE)}"
    assert "Waiting for room" in head(f"python jobs/finetune.py weimann2021_table1_none {words}")
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["splits"]["test"]
    assert nodes(head) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_trials_wait_for_their_nodes(
    head: Any, small_archive: Path, labelled_shards: Path, tmp_path: Path, workers: int
) -> None:
    words = f"--data {small_archive} --downstream {labelled_shards} --out {tmp_path}/sweep --workers {workers}"
    head(f"python jobs/sweep.py weimann2021_pretraining {words} {' '.join(SWEEP)}")
    rows = json.loads((tmp_path / "sweep" / "trials.json").read_text())
    assert len(rows) == 2 and all(row["state"] in ("COMPLETE", "PRUNED") for row in rows)
    assert (tmp_path / "sweep" / "final" / "winner" / "scores.json").is_file()
    assert nodes(head) == 3


def nodes(head: Any) -> int:
    """How many there are now, the head too."""
    script = "import ray; ray.init(); print('nodes', sum(node['Alive'] for node in ray.nodes()))"
    return int(head(f'python -c "{script}"').rpartition("nodes ")[2])
