"""Files and units of monitoring, read by Prometheus' own programs."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from provision.core.models.settings import Settings
from provision.core.unit_set import UnitSet
from provision.features.gateway.backends import Backend, Gateway
from provision.features.gateway.haproxy import TRAFFIC, render
from provision.features.monitoring.targets import Target
from provision.features.monitoring.unit_sets import exporter_set, server_set
from tests.features.monitoring.hosts import MONITOR, host
from tests.features.monitoring.programs import program
from tests.features.monitoring.running import offering, prometheus
from tests.waiting import wait_until

INVENTORY = Path("/site/hosts.yml")

TARGETS = (
    Target("vllm", "gpu-1", "192.0.2.11:8000", "org/m", "key-of-gpu-1"),
    Target("node", "gpu-1", "192.0.2.11:9100"),
    Target("gateway", "gate", "192.0.2.12:8404"),
)
SET = server_set(MONITOR, TARGETS, "/opt/firstlight", INVENTORY)


def refusing(one: UnitSet, folder: Path) -> list[str]:
    """Return the programs that refuse the files of a set."""
    for name, text in one.files.items():
        (folder / name).write_text(text)
    done = {
        tool: subprocess.run([program(tool), *words], cwd=folder, capture_output=True, check=False)
        for tool, *words in one.checks
    }
    return [tool for tool, ended in done.items() if ended.returncode != 0]


def test_the_files_pass_the_checks_of_the_programs_that_read_them(tmp_path: Path) -> None:
    assert refusing(SET, tmp_path) == []
    assert {tool for tool, *_ in SET.checks} == {"promtool", "amtool", "prometheus-blackbox-exporter"}


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("prometheus.yml", "promtool"),
        ("alerts.yml", "promtool"),
        ("alertmanager.yml", "amtool"),
        ("blackbox.yml", "prometheus-blackbox-exporter"),
        ("vllm.json", "promtool"),
    ],
)
def test_a_damaged_file_does_not_pass_them(name: str, tool: str, tmp_path: Path) -> None:
    files = {**SET.files, name: f"{SET.files[name]}\nno_such_field: 1\n"}
    assert refusing(replace(SET, files=files), tmp_path) == [tool]


def test_the_users_configuration_replaces_that_of_alertmanager(tmp_path: Path) -> None:
    text = "route: {receiver: mine}\nreceivers: [{name: mine, webhook_configs: [{url: 'http://192.0.2.3/'}]}]\n"
    one = server_set(MONITOR, TARGETS, "/opt/firstlight", INVENTORY, text)
    assert one.files["alertmanager.yml"] == text
    assert refusing(one, tmp_path) == []
    assert "192.0.2.3" not in repr(one) + str(one.variables("/run/in")), "it may hold a password"


def test_a_key_is_in_its_own_file_alone(tmp_path: Path) -> None:
    assert [name for name, text in SET.files.items() if "key-of-gpu-1" in text] == ["key-gpu-1"]
    assert "key-of-gpu-1" not in repr(SET) + repr(TARGETS) + str(SET.variables("/run/in"))
    files = {name: text for name, text in SET.files.items() if name != "key-gpu-1"}
    assert refusing(replace(SET, files=files), tmp_path) == ["promtool"]


def test_equal_inventories_give_equal_files_and_others_another_digest() -> None:
    assert SET.digest == server_set(MONITOR, TARGETS[::-1], "/opt/firstlight", INVENTORY).digest
    assert SET.digest != server_set(MONITOR, TARGETS[:2], "/opt/firstlight", INVENTORY).digest


def test_settings_reach_the_units() -> None:
    settings = Settings(monitoring_bind="[fd00::9]", monitoring_port=9091, monitoring_days=30, expose=True)
    one = server_set(MONITOR.model_copy(update={"settings": settings}), TARGETS, "/srv/fl", INVENTORY)
    text = one.units["firstlight-prometheus.service"]
    assert "--web.listen-address=[fd00::9]:9091" in text
    assert "--storage.tsdb.retention.time=30d" in text
    assert "--config.file=/srv/fl/monitoring/current/prometheus.yml" in text
    assert one.ready == (
        "http://[fd00::9]:9091/-/ready",
        "http://[fd00::9]:9093/-/ready",
        "http://127.0.0.1:9115/-/healthy",
    )
    assert '"[fd00::9]:9093"' in one.files["prometheus.yml"]
    exporter = exporter_set(host("h", metrics_port=9101), [MONITOR], "/srv/fl")
    text = exporter.units["firstlight-node-exporter.service"]
    assert "--web.listen-address=192.0.2.1:9101" in text
    assert (exporter.ports, exporter.running) == (
        (9101,),
        ("firstlight-node-exporter.service", "firstlight-host-metrics.timer"),
    )
    assert "--collector.textfile.directory=/srv/fl/exporter/textfile" in text
    assert "if the host lacks 192.0.2.1, as behind NAT: set firstlight_metrics_bind" in exporter.hint
    assert exporter_set(MONITOR, [MONITOR], "/srv/fl").hint == "", "each host has that address"
    assert all("/srv/fl/" in text for text in exporter.units.values()), "uninstall knows whose a unit is"
    metrics = exporter.units["firstlight-host-metrics.service"]
    assert "--prefix /srv/fl --write /srv/fl/exporter/textfile/firstlight.prom" in metrics


def test_a_host_without_an_environment_has_nothing_to_say_of_cards() -> None:
    assert [*exporter_set(MONITOR, [MONITOR], "/opt/firstlight").units] == ["firstlight-node-exporter.service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
@pytest.mark.parametrize(
    "one",
    [
        server_set(MONITOR, (), "/opt/firstlight", INVENTORY),
        exporter_set(host("h"), [MONITOR], "/opt/firstlight"),
    ],
)
def test_systemd_knows_every_line_of_the_units(one: UnitSet, tmp_path: Path) -> None:
    for name, text in one.units.items():
        (tmp_path / name).write_text(
            re.sub(r"=(prometheus[a-z-]*|kill|/opt/firstlight/current/bin/python) ", "=/bin/true ", text)
        )
    files = [str(path) for path in tmp_path.iterdir()]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if str(tmp_path) in line] == []


@pytest.mark.slow
def test_prometheus_reads_vllm_and_a_host_without_an_answer_is_down(tmp_path: Path) -> None:
    metrics = {"/metrics": 'vllm:num_requests_running{model_name="org/m"} 3.0\n'}
    with offering(metrics, key="key-of-gpu-1") as at:
        targets = (
            Target("vllm", "gpu-1", at, "org/m", "key-of-gpu-1"),
            Target("vllm", "gpu-2", "127.0.9.2:9", "org/m"),
        )
        files = dict(server_set(MONITOR, targets, str(tmp_path), INVENTORY).files)
        files["prometheus.yml"] = files["prometheus.yml"].replace("10s", "1s").replace("8s", "1s")
        with prometheus(tmp_path, files) as server:
            wait_until(lambda: server.values("up") == {"gpu-1": 1.0, "gpu-2": 0.0}, "the targets are never read")
            [found] = server.query("vllm:num_requests_running")
    assert {"host": "gpu-1", "model": "org/m", "model_name": "org/m"}.items() <= found["metric"].items()
    assert found["value"][1] == "3"


@pytest.mark.slow
def test_metrics_of_a_service_have_its_name_as_host(tmp_path: Path) -> None:
    metrics = "".join(f'firstlight_service_active{{service="{name}"}} 1.0\n' for name in ("chat", "small"))
    with offering({"/metrics": f"{metrics}firstlight_cards 2.0\n"}) as at:
        files = dict(server_set(MONITOR, [Target("node", "gpu-1@chat", at)], str(tmp_path), INVENTORY).files)
        files["prometheus.yml"] = files["prometheus.yml"].replace("10s", "1s").replace("8s", "1s")
        with prometheus(tmp_path, files) as server:
            both = {"gpu-1@chat": 1.0, "gpu-1@small": 1.0}
            wait_until(lambda: server.values("firstlight_service_active") == both, "the services are never read")
            assert server.values("firstlight_cards") == {"gpu-1@chat": 2.0}


@pytest.mark.slow
def test_metrics_of_a_gateway_name_a_service_as_commands_do(tmp_path: Path) -> None:
    names = ("gpu-1@chat", "gpu-2", "2001:db8::1")
    backends = tuple(
        Backend(name=name, address="192.0.2.11", model="m", bind="192.0.2.11", port=8000, key=None) for name in names
    )
    files = render(Gateway(Settings(gateway_tls=False), backends, {"default": "sk-a"}, str(tmp_path))).texts
    servers = [one["server"] for one in json.loads(files[TRAFFIC])["servers"].values()]
    metrics = "".join(f'haproxy_server_status{{proxy="model-0",server="{server}"}} 1.0\n' for server in servers)
    with offering({"/metrics": metrics}) as at:
        files = dict(server_set(MONITOR, [Target("gateway", "gate", at)], str(tmp_path), INVENTORY).files)
        files["prometheus.yml"] = files["prometheus.yml"].replace("10s", "1s").replace("8s", "1s")
        with prometheus(tmp_path, files) as server:
            wait_until(lambda: server.values("haproxy_server_status") != {}, "the gateway is never read")
            assert {one["metric"]["server"] for one in server.query("haproxy_server_status")} == {*names}
