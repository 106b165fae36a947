"""What a Prometheus outside of the inventory may read, and that it reads it with the configuration of the guide."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from docs.generate import ROOT
from provision.features.monitoring.targets import KEYED, Target, outside_targets, render_targets
from provision.run.served import Served
from tests.features.monitoring.hosts import MONITOR, host
from tests.features.monitoring.running import offering, prometheus
from tests.fleet.command_runner import CommandRunner
from tests.waiting import wait_until

GPU = host("gpu-1", address="192.0.2.11", bind="0.0.0.0", expose=True)
OPEN = host("gpu-2", address="192.0.2.12", bind="0.0.0.0", expose=True, api_key=False)
HIDDEN = host("gpu-3", address="192.0.2.13")
GATE = host("gate", "gateway", address="192.0.2.14")
SERVED = {
    "gpu-1": Served("org/m", "0.0.0.0", 8000, "key"),
    "gpu-2": Served("org/m", "0.0.0.0", 8000, None),
    "gpu-3": Served("org/m", "127.0.0.1", 8000, "key"),
}


def test_vllm_and_exporters_of_cards_are_read_without_monitoring_hosts() -> None:
    found = outside_targets([GPU, OPEN, HIDDEN, GATE], SERVED, {"gpu-2": (9400,)}, {})
    assert json.loads(render_targets(found.targets, keyed=KEYED)) == [
        {"targets": ["192.0.2.12:9400"], "labels": {"job": "cards", "host": "gpu-2"}},
        {
            "targets": ["192.0.2.11:8000"],
            "labels": {"job": "vllm", "host": "gpu-1", "model": "org/m", "__firstlight_key": "required"},
        },
        {"targets": ["192.0.2.12:8000"], "labels": {"job": "vllm", "host": "gpu-2", "model": "org/m"}},
    ]
    assert found.missing["gpu-3"] == "vLLM listens on 127.0.0.1"
    assert found.missing["gpu-1"] == "no node exporter: the inventory has no group `monitoring`"


def test_all_but_the_probes_of_gateways_are_read_beside_monitoring_hosts() -> None:
    without = {"gpu-2": "no node exporter: it runs Rocky Linux 9"}
    found = outside_targets([MONITOR, GATE, GPU, OPEN], SERVED, {}, without)
    assert {(target.job, target.address) for target in found.targets} == {
        ("vllm", "192.0.2.11:8000"),
        ("vllm", "192.0.2.12:8000"),
        ("node", "192.0.2.11:9100"),
        ("node", "192.0.2.14:9100"),
        ("gateway", "192.0.2.14:8404"),
    }
    assert found.missing == {"mon": "its exporters listen on 127.0.0.1", **without}


@pytest.mark.slow
def test_a_prometheus_reads_the_file_with_the_configuration_of_the_guide(tmp_path: Path) -> None:
    guide = (ROOT / "docs/guides/monitoring.md").read_text(encoding="utf-8")
    [config] = [found for found in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL) if "file_sd_configs" in found]
    text = {"/metrics": "vllm:num_requests_running 3\n"}
    with offering(text, key="key-of-gpu-1") as keyed, offering(text) as unkeyed:
        targets = [Target("vllm", "gpu-1", keyed, "org/m", "key-of-gpu-1"), Target("vllm", "gpu-2", unkeyed, "org/m")]
        files = {
            "prometheus.yml": yaml.safe_dump({"global": {"scrape_interval": "1s"}, **yaml.safe_load(config)}),
            "firstlight.json": render_targets(targets, keyed=KEYED),
            "gpu-1.key": "key-of-gpu-1\n",
        }
        with prometheus(tmp_path, files) as server:
            wait_until(lambda: server.values("up") == {"gpu-1": 1.0, "gpu-2": 1.0}, "the targets are never read")
            [first, _] = sorted(server.query("up"), key=lambda one: str(one["metric"]["host"]))
    assert {"job": "vllm", "host": "gpu-1", "model": "org/m"}.items() <= first["metric"].items()
    assert "__firstlight_key" not in first["metric"]


@pytest.mark.slow
def test_a_machine_that_offers_nothing_is_an_error(tmp_path: Path) -> None:
    done = CommandRunner(tmp_path / "logs")("monitoring", "targets", "-o", "targets.json")
    assert done.code == 2, done.output()
    assert "no host offers metrics to other machines" in done.err
    assert not (tmp_path / "targets.json").exists()


@pytest.mark.slow
def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "targets.json")
    done = CommandRunner(tmp_path / "logs")("monitoring", "targets", "-o", str(tmp_path / "targets.json"))
    assert done.code == 2, done.output()
    assert "it is a device, a pipe or a socket" in done.err
    assert not (tmp_path / "logs").exists()


def test_grafana_is_told_where_the_dashboards_are() -> None:
    folder = ROOT / "docs/dashboards/provisioning"
    [provider] = yaml.safe_load((folder / "dashboards/firstlight.yml").read_text())["providers"]
    [source] = yaml.safe_load((folder / "datasources/firstlight.yml").read_text())["datasources"]
    assert (provider["type"], source["type"]) == ("file", "prometheus")
    assert f"`{provider['options']['path']}/`" in (ROOT / "docs/guides/monitoring.md").read_text()
