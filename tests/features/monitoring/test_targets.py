"""Which addresses Prometheus reads."""

import json

import pytest

from provision.features.monitoring.targets import Target, find_targets, parse_targets, render_targets
from provision.fleet.inventory.addresses import metrics_bind
from provision.run.served import Served
from tests.features.monitoring.hosts import MONITOR, host

GPU = host("gpu-1", address="192.0.2.11", bind="0.0.0.0", expose=True)
GATE = host("gate", "gateway", address="192.0.2.12")


def addresses(found: tuple[Target, ...]) -> set[tuple[str, str, str]]:
    return {(target.job, target.host, target.address) for target in found}


@pytest.mark.parametrize(
    ("groups", "is_provisioned"),
    [(("monitoring",), False), (("monitoring", "gateway"), False), (("monitoring", "gpus"), True)],
)
def test_a_host_that_only_monitors_gets_no_environment(groups: tuple[str, ...], is_provisioned: bool) -> None:
    assert host("h", *groups).is_monitoring
    assert host("h", *groups).is_provisioned is is_provisioned


def test_every_host_has_the_targets_of_its_groups() -> None:
    served = {"gpu-1": Served("org/m", "0.0.0.0", 8000, "key")}
    found = find_targets(MONITOR, [MONITOR, GATE, GPU], served, {})
    assert addresses(found.targets) == {
        ("vllm", "gpu-1", "192.0.2.11:8000"),
        ("node", "gpu-1", "192.0.2.11:9100"),
        ("node", "gate", "192.0.2.12:9100"),
        ("gateway", "gate", "192.0.2.12:8404"),
        ("probe", "gate", "https://192.0.2.12:8443/health"),
        ("node", "mon", "127.0.0.1:9100"),
    }
    assert found.missing == {}


def test_ports_and_addresses_of_the_settings_are_read() -> None:
    one = host("g", "gateway", "gpus", metrics_bind="[fd00::5]", metrics_port=9101, gateway_metrics_port=8405)
    found = find_targets(MONITOR, [MONITOR, one], {"g": Served("m", "fd00::5", 8001, None)}, {})
    assert addresses(found.targets) >= {
        ("vllm", "g", "[fd00::5]:8001"),
        ("node", "g", "[fd00::5]:9101"),
        ("gateway", "g", "[fd00::5]:8405"),
    }


def test_metrics_are_offered_at_the_address_that_monitors_reach() -> None:
    alone = host("h", "monitoring", "gpus")
    assert metrics_bind(alone, [alone, MONITOR]) == "192.0.2.1"
    assert metrics_bind(host("h", address="h.example.org"), [MONITOR]) == "0.0.0.0", "its address is a name"
    assert metrics_bind(alone, [alone]) == "127.0.0.1", "it monitors itself alone"
    found = find_targets(alone, [alone], {"h": Served("m", "127.0.0.1", 8000, "key")}, {})
    assert addresses(found.targets) == {("vllm", "h", "127.0.0.1:8000"), ("node", "h", "127.0.0.1:9100")}


def test_a_host_that_listens_in_the_other_family_is_named_and_its_gateway_is_not_probed() -> None:
    one = host("gate", "gateway", address="2001:db8::2", metrics_bind="0.0.0.0", expose=True)
    found = find_targets(MONITOR, [MONITOR, one], {"gate": None}, {})
    assert {target.host for target in found.targets} == {"mon"}
    assert found.missing == {"gate": "its exporters listen on 0.0.0.0"}


@pytest.mark.parametrize("bind", ["127.0.0.1", "localhost", "::1"])
def test_a_vllm_that_cannot_be_reached_is_missing_and_named(bind: str) -> None:
    found = find_targets(MONITOR, [MONITOR, GPU], {"gpu-1": Served("m", bind, 8000, None)}, {})
    assert found.missing == {"gpu-1": f"vLLM listens on {bind}"}
    assert ("node", "gpu-1", "192.0.2.11:9100") in addresses(found.targets)


def test_a_host_without_an_exporter_is_named_and_its_vllm_is_read() -> None:
    why = {"gpu-1": "no node exporter: it runs Rocky Linux 9"}
    found = find_targets(MONITOR, [MONITOR, GPU], {"gpu-1": Served("m", "0.0.0.0", 8000, None)}, why)
    assert found.missing == why
    assert {job for job, name, _ in addresses(found.targets) if name == "gpu-1"} == {"vllm"}


def test_a_host_without_an_answer_stays_a_target_so_that_its_absence_is_seen() -> None:
    known = (
        Target("vllm", "gpu-1", "192.0.2.11:8000", "org/m"),
        Target("cards", "gpu-1", "192.0.2.11:9400"),
        Target("vllm", "gone", "192.0.2.99:8000", "org/m"),
    )
    found = find_targets(MONITOR, [MONITOR, GPU], {}, {}, known=known)
    assert {target for target in found.targets if target.job != "node"} == {*known[:2]}
    ended = find_targets(MONITOR, [MONITOR, GPU], {}, {}, known=known, card_ports={"gpu-1": ()})
    assert [target for target in ended.targets if target.job == "cards"] == []
    stopped = find_targets(MONITOR, [MONITOR, GPU], {"gpu-1": None}, {}, known=known)
    assert [target for target in stopped.targets if target.job == "vllm"] == []


def test_targets_are_written_as_prometheus_reads_them_and_read_again() -> None:
    targets = (
        Target("vllm", "gpu-2", "192.0.2.12:8000", "org/m", "key-2"),
        Target("vllm", "gpu-1", "192.0.2.11:8000", "org/m"),
        Target("node", "gpu-1", "192.0.2.11:9100"),
    )
    text = render_targets(targets)
    assert json.loads(text)[1] == {
        "targets": ["192.0.2.11:8000"],
        "labels": {"job": "vllm", "host": "gpu-1", "model": "org/m"},
    }
    assert json.loads(text)[0] == {"targets": ["192.0.2.11:9100"], "labels": {"job": "node", "host": "gpu-1"}}
    assert "key-2" not in text
    assert set(parse_targets(text, {"gpu-2": "key-2"})) == set(targets)
    assert text == render_targets(targets[::-1])


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"labels": {}}]', '[{"labels": {"host": "h"}, "targets": []}]'])
def test_a_damaged_file_of_targets_has_none(text: str) -> None:
    good = render_targets([Target("node", "h", "192.0.2.1:9100")])
    assert parse_targets(f"{text}\n{good}", {}) == (Target("node", "h", "192.0.2.1:9100"),)
