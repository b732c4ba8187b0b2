"""The gauges of a real run on Ray, scraped from the node's metrics port; every expression of the Grafana dashboard
finds one of them. The cluster that they come from is a sound one: the doctor says so."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecgray.operations.doctor import examine
from ecgray.training.pretraining import pretrain
from ecgray.training.ray_metrics import GAUGES

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana" / "ecgray.json").read_text())
Samples = dict[str, list[tuple[dict[str, str], float]]]
PATIENCE_S = 600
STEPS = 500
"""Long enough to be seen at work: the first validation, after which all gauges are there, comes after 20."""


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[int]:
    """The metrics port of a cluster with one node, which reports every half second."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        ray.init(
            num_cpus=2,
            dashboard_host="127.0.0.1",
            object_store_memory=200 << 20,
            log_to_driver=False,
            _system_config={"metrics_report_interval_ms": 500},
        )
        yield ray.nodes()[0]["MetricsExportPort"]
        ray.shutdown()


@pytest.fixture(scope="module")
def scraped(cluster: int, make_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Samples]:
    """Ours among all that the port serves, read while two workers train."""
    from prometheus_client.parser import text_string_to_metric_families

    run = tmp_path_factory.mktemp("metrics") / "run"
    config = make_config(steps=STEPS, validate_every=20)
    ended: list[BaseException] = []

    def train() -> None:
        try:
            pretrain(config, run, workers=2, backend="local", show_progress=False)
        except BaseException as error:  # looked at below
            ended.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    samples: Samples = {}
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline and [len(of_ranks) for of_ranks in samples.values()] != [2] * len(GAUGES):
            assert thread.is_alive(), ended
            time.sleep(0.5)
            text = urllib.request.urlopen(f"http://127.0.0.1:{cluster}/metrics", timeout=30).read().decode()
            samples = {
                family.name: [(sample.labels, sample.value) for sample in family.samples]
                for family in text_string_to_metric_families(text)
                if family.name.startswith("ray_ecgray_")
            }
        yield samples
    finally:
        thread.join()


def test_what_a_run_tells(scraped: Samples) -> None:
    assert set(scraped) == {f"ray_{name}" for name, _ in GAUGES.values()}
    for name, values in scraped.items():
        assert {labels["rank"] for labels, _ in values} == {"0", "1"}, name
        assert all(labels["run"].endswith("/run") for labels, _ in values)
    by_rank = {name: {labels["rank"]: value for labels, value in values} for name, values in scraped.items()}
    assert by_rank["ray_ecgray_train_step"]["0"] >= 20 and by_rank["ray_ecgray_train_step"]["0"] % 5 == 0
    assert 0 < by_rank["ray_ecgray_train_loss"]["0"] < 10
    assert 0 <= by_rank["ray_ecgray_validation_accuracy"]["0"] <= 1
    assert 0 <= by_rank["ray_ecgray_train_data_wait_ratio"]["1"] <= 1
    rate, step_s = by_rank["ray_ecgray_train_frames_per_second"], by_rank["ray_ecgray_train_step_seconds"]
    assert rate["0"] > 0 and step_s["0"] > 0
    assert set(by_rank["ray_ecgray_train_gpu_memory_bytes"].values()) == {0}  # of a CPU


def test_every_expression_of_the_dashboard_finds_a_metric(scraped: Samples) -> None:
    assert len(expressions()) == len(DASHBOARD["panels"]) == len(GAUGES)
    for expression in expressions():
        (name,) = re.findall(r"\bray_\w+", expression)
        asked = set(re.findall(r"(\w+)=", expression))
        assert all(asked <= labels.keys() for labels, _ in scraped[name])
    legends = {target["legendFormat"] for panel in DASHBOARD["panels"] for target in panel["targets"]}
    assert {label for legend in legends for label in re.findall(r"{{(\w+)}}", legend)} == {"run", "rank"}


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no Prometheus on this machine")
def test_prometheus_answers_every_expression(cluster: int, scraped: Samples, tmp_path: Path) -> None:
    port = cluster + 1 if cluster < 60_000 else cluster - 1
    scrape = {"job_name": "ray", "scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{cluster}"]}]}
    (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scrape]}))  # JSON is YAML
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)

    def ask(expression: str) -> list[Any]:
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{query}", timeout=30) as answer:
                return json.load(answer)["data"]["result"]
        except OSError:
            return []

    try:
        deadline = time.monotonic() + PATIENCE_S
        for expression in expressions():
            asked = expression.replace("$run", ".*")
            while not (found := ask(asked)):
                assert process.poll() is None and time.monotonic() < deadline, asked
                time.sleep(0.5)
            assert len(found) == (1 if 'rank="0"' in asked else 2), asked
    finally:
        process.terminate()
        process.wait()


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """What an import asks of a dashboard: no id of a database, panels that do not overlap, every source a variable."""
    assert DASHBOARD["id"] is None and DASHBOARD["title"] and DASHBOARD["uid"] and DASHBOARD["schemaVersion"] >= 36
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["run"]["datasource"] == source and "ray_ecgray_train_step" in variables["run"]["definition"]
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert (
            panel["type"] == "timeseries" and panel["title"] and panel["description"] and panel["datasource"] == source
        )
        assert all(target["datasource"] == source and target["refId"] for target in panel["targets"])
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells


def test_the_doctor_finds_a_sound_cluster(cluster: int, tmp_path: Path) -> None:
    checks = {check.name: check for check in examine(str(tmp_path))}
    names = "versions cluster processor gpu all-reduce storage disk clock token ports"
    assert list(checks) == names.split()
    assert {name for name, check in checks.items() if check.state == "fail"} <= {"disk"}  # which is this machine's
    for name in ("versions", "cluster", "gpu", "all-reduce", "storage", "clock", "token"):
        assert checks[name].state == "ok" and not checks[name].remedy, checks[name]
    assert checks["all-reduce"].values["bus_bytes_per_s"] > 0
    assert "turns away who has none" in checks["token"].found
