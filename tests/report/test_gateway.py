"""The gateway in the summary of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.core.models.facts import Drift, Installed
from provision.core.models.inventory import Connection, Host, Inventory
from provision.core.models.records import GatewayRecord, PhaseResult
from provision.core.models.settings import Settings
from provision.core.run_folder import RunFolder
from provision.report import summarise
from provision.report.text import render
from tests.report.sample import facts

RECORD = GatewayRecord(
    endpoint="https://192.0.2.10:8443/v1",
    models={"org/m": ("gpu-1", "gpu-2"), "n": ("gpu-3",)},
    clients=("app", "batch"),
    key_file="/opt/firstlight/gateway/current/clients.map",
    fingerprint="AB:CD",
    self_signed=True,
)


@pytest.mark.parametrize("changed", [True, False])
def test_the_summary_has_what_clients_need(tmp_path: Path, changed: bool) -> None:
    run = RunFolder.create(tmp_path, command="gateway")
    host = Host(name="gate", groups=("gateway",), connection=Connection(kind="ssh"), settings=Settings())
    run.write("inventory.json", Inventory(source="hosts.yml", hosts=(host,)))
    results = {
        "probe": PhaseResult(host="gate", phase="probe", status="ok"),
        "serve": PhaseResult(host="gate", phase="serve", status="ok", changed=changed),
    }
    run.write("phases.json", {"gate": {name: result.model_dump() for name, result in results.items()}})
    run.write("gateway/gate.json", RECORD)
    summary = summarise(run)
    [entry] = summary.hosts
    assert (entry.state, entry.gateway) == ("serving" if changed else "unchanged", RECORD)
    text = render(summary)
    for line in (
        "Gateway    https://192.0.2.10:8443/v1 for org/m (2 hosts), n (1 host)",
        "Gateway",
        "  gate: https://192.0.2.10:8443/v1",
        "    org/m: gpu-1, gpu-2",
        "    n: gpu-3",
        "    keys of app, batch: in /opt/firstlight/gateway/current/clients.map on the host",
        "    self-signed certificate, SHA-256 AB:CD",
    ):
        assert line in text.splitlines()


def test_a_run_of_the_gateway_alone_does_not_report_drift_as_repaired(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, command="gateway")
    host = Host(name="gate", groups=("gateway", "gpus"), connection=Connection(kind="ssh"), settings=Settings())
    run.write("inventory.json", Inventory(source="hosts.yml", hosts=(host,)))
    drift = Drift(kind="unit", path="/etc/systemd/system/firstlight-vllm.service", text="was changed")
    run.write("facts/gate.json", facts("gate", installed=Installed(prefix="/opt/firstlight", drift=(drift,))))
    run.write("phases.json", {"gate": {"serve": PhaseResult(host="gate", phase="serve", status="ok").model_dump()}})
    [note] = summarise(run).hosts[0].notes
    assert note.startswith("drift, repaired: ")
    run.write("gateway/gate.json", RECORD)
    [note] = summarise(run).hosts[0].notes
    assert note.startswith("drift: ")


def test_a_failed_gateway_has_no_address(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, command="gateway")
    host = Host(name="gate", groups=("gateway",), connection=Connection(kind="ssh"), settings=Settings())
    run.write("inventory.json", Inventory(source="hosts.yml", hosts=(host,)))
    failed = PhaseResult(host="gate", phase="serve", status="failed", text="no")
    run.write("phases.json", {"gate": {"serve": failed.model_dump()}})
    run.write("gateway/gate.json", RECORD)
    assert summarise(run).hosts[0].gateway is None
