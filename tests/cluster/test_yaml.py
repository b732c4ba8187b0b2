"""The cluster files: taken by Ray, closed, without secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
FILES = [REPOSITORY / "cluster.yaml", *(REPOSITORY / "cluster" / name for name in ("gcp.yaml", "own-machines.yaml"))]


@pytest.fixture(params=FILES, ids=lambda file: file.name)
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load(request.param.read_text())


def test_ray_takes_it(settings: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled = prepare_config(settings)
    validate_config(filled)
    assert filled["idle_timeout_minutes"] > 0
    if filled["provider"]["type"] != "local":
        gpu = filled["available_node_types"]["gpu"]
        assert gpu["min_workers"] == 0 and gpu["max_workers"] == filled["max_workers"] == 8
        assert gpu["resources"]["GPU"] == 1
    with pytest.raises(Exception, match="unexpected"):
        validate_config(filled | {"open": True})


def test_every_ray_is_started_closed(settings: dict[str, Any]) -> None:
    words = [word for key in ("head_start_ray_commands", "worker_start_ray_commands") for word in settings[key]]
    starts = [word for word in words if "ray start" in word]
    assert len(starts) == 2
    assert all(word.startswith("source ~/ecgray/cluster/environment.sh") for word in words)
    heads = [word for word in starts if "--head" in word]
    assert len(heads) == 1 and "--dashboard-host=127.0.0.1" in heads[0]
    assert "export RAY_AUTH_MODE=token" in (REPOSITORY / "cluster" / "environment.sh").read_text()
    assert settings["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("constraints.txt" in word for word in settings["setup_commands"])


@pytest.mark.parametrize("file", [*FILES, REPOSITORY / "cluster" / "kuberay.yaml"], ids=lambda file: file.name)
def test_no_secret_lies_in_a_file(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|secret_access_key|PRIVATE KEY|password|[0-9a-f]{64}", text)


def test_kuberay_is_closed_too() -> None:
    cluster, policy = yaml.safe_load_all((REPOSITORY / "cluster" / "kuberay.yaml").read_text())
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        for container in group["template"]["spec"]["containers"]:
            variables = {entry["name"]: entry for entry in container["env"]}
            assert variables["RAY_AUTH_MODE"]["value"] == "token"
            assert "secretKeyRef" in variables["RAY_AUTH_TOKEN"]["valueFrom"]
    assert policy["kind"] == "NetworkPolicy" and policy["spec"]["policyTypes"] == ["Ingress"]
