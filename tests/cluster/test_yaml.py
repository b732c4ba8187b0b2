"""The cluster files: taken by Ray, closed, without secrets."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
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


STUB = """#!/bin/bash
printf '%s\\n' "${0##*/}" "$@" > "$(mktemp -p "$STUBS/called")"
[ "$1 $2" != "-m venv" ] || { mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/pip"; }
"""


def test_setup_commands_run_in_the_shell_of_the_machine(settings: dict[str, Any], tmp_path: Path) -> None:
    """On a home with this repository in it, quoted as Ray quotes them for ssh; what installs only says what it got."""
    from ray.autoscaler._private.command_runner import _with_interactive

    home, called = tmp_path / "home", tmp_path / "called"
    for folder in (home, called, tmp_path / "bin"):
        folder.mkdir()
    (home / "ecgray").symlink_to(REPOSITORY)
    for name in ("sudo", "python3", "python3.11"):
        (tmp_path / "bin" / name).write_text(STUB)
        (tmp_path / "bin" / name).chmod(0o755)
    # /etc/profile sets the path of a login shell anew.
    (home / ".bashrc").write_text(f"export STUBS={tmp_path} PATH={tmp_path}/bin:$PATH\n")

    def on_machine(command: str) -> str:
        words = " ".join(_with_interactive(command))
        ran = subprocess.run(
            ["bash", "-c", words], env={"HOME": str(home), "PATH": os.environ["PATH"]}, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    for _ in range(2):  # a machine that was set up before is set up again
        for command in settings["setup_commands"]:
            on_machine(command)
    calls = [file.read_text().splitlines() for file in called.iterdir()]
    installs = [call[1:] for call in calls if call[0] == "pip"]
    assert len(installs) == 2 and sum("venv" in call for call in calls) == 1
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for call in calls:
        for word in call:
            path, _, asked = word.partition("[")
            if "/" not in path or path.startswith("ppa:"):
                continue
            assert Path(path).is_absolute() and Path(path).exists(), call
            assert set(filter(None, asked.rstrip("]").split(","))) <= extras.keys(), call
    for install in installs:
        assert f"{home}/ecgray/constraints.txt" == install[install.index("--constraint") + 1]
        # A job may be any verb, a sweep too.
        assert any(word.startswith(f"{home}/ecgray[search") for word in install), install
    assert on_machine("echo $RAY_AUTH_MODE").strip() == "token"
    assert (home / ".bashrc").read_text().count("environment.sh") == 1


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
