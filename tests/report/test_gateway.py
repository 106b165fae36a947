"""The gateway in the summary of a run."""

import subprocess
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from provision.core.models.facts import Drift, Installed
from provision.core.models.inventory import Connection, Host
from provision.core.models.records import GatewayRecord
from provision.core.models.settings import Settings
from provision.report import summarise
from provision.report.screen import first_screen_of
from provision.report.text import render
from tests.report.sample import GPU_STACK, Folder, around, facts, host, result

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
    summary = summarise(around(tmp_path, "gateway", RECORD, changed=changed))
    [entry] = summary.hosts
    assert (entry.state, entry.gateway) == ("serving" if changed else "unchanged", RECORD)
    text = render(summary)
    for line in (
        "Gateway    https://192.0.2.10:8443/v1 for org/m (2 hosts), n (1 host)",
        "           keys of app, batch in /opt/firstlight/gateway/current/clients.map on the host",
        "Hosts      gate  gateway, changed" if changed else "Hosts      gate  gateway, unchanged",
        "Gateway",
        "  gate: https://192.0.2.10:8443/v1 for org/m (2 hosts), n (1 host)",
        "    org/m: gpu-1, gpu-2",
        "    n: gpu-3",
        "    self-signed certificate, SHA-256 AB:CD",
    ):
        assert line in text.splitlines()


def test_hosts_that_get_no_requests_are_told(tmp_path: Path) -> None:
    out = {"gpu-1": "drained by an operator"}
    text = fleet(tmp_path, gateway=RECORD.model_copy(update={"out": out})).text()
    said = " ".join(text.split())
    assert "for org/m (1 of 2 hosts in traffic; gpu-1: drained by an operator), n (1 host)" in said


def fleet(tmp_path: Path, *, gateway: GatewayRecord = RECORD, changed: bool = True) -> Folder:
    """Return a run on two hosts that serve, and a gateway of its own."""
    gate = Host(
        name="gate",
        groups=("gateway",),
        connection=Connection(kind="ssh", address="192.0.2.10", user="ops", become=True),
        settings=Settings(gateway_clients=("app", "batch")),
    )
    names = ["gpu-1", "gpu-2"]
    folder = Folder(tmp_path / "20261120T101500Z", [*(host(name) for name in names), gate])
    folder.planned(names, GPU_STACK)
    folder.staged(names, GPU_STACK)
    for name in names:
        folder.green(name, gpus=8)
        if not changed:  # only the agent beside the service is new
            text = "serves since its answers were verified; health agent"
            folder.results(*(result(name, phase, "skipped") for phase in ("stage", "install", "verify")))
            folder.results(result(name, "serve", "skipped", text=text, changed=True))
    folder.run.write("facts/gate.json", facts("gate"))
    folder.results(result("gate", "probe"), result("gate", "serve", text="gateway to 2 hosts"))
    folder.run.write("gateway/gate.json", gateway)
    return folder


def test_a_fleet_with_a_gateway_is_asked_through_it(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    assert first_screen_of(fleet(tmp_path).text()) == snapshot


@pytest.mark.parametrize("changed", [True, False])
def test_hosts_that_serve_are_counted_without_the_gateway(tmp_path: Path, changed: bool) -> None:
    folder = fleet(tmp_path, changed=changed)
    assert folder.text().startswith("GREEN: 2 hosts serving; 1 gateway; 8 checks ok\n")
    folder.results(result("gpu-2", "serve", "failed", text="no"))
    assert folder.text().startswith("RED: 1 of 2 hosts failed (gpu-2); 1 of 2 hosts serving; 1 gateway; 8 checks ok\n")
    assert [entry["state"] for entry in folder.json()["hosts"]] == ["serving", "failed", "serving"]


def test_the_pasted_request_trusts_the_copied_certificate_and_has_the_clients_key(tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    (tmp_path / "current/clients.map").write_text("sk-1 myapp\nsk-2 app\nsk-3 batch\n")
    (tmp_path / "current/certificate.pem").write_text("CERTIFICATE\n")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    programs = {
        "ssh": 'shift $(($# - 1)); exec sh -c "$1"',
        "sudo": 'exec "$@"',
        "openssl": 'exec cat "$3"',
        "curl": 'cat > header; printf "%s\\n" "$@" > asked; cat gate.pem >> asked',
    }
    for name, body in programs.items():
        (bin_folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (bin_folder / name).chmod(0o755)
    record = RECORD.model_copy(update={"key_file": "current/clients.map"})
    screen = first_screen_of(fleet(tmp_path, gateway=record).text())
    lines = screen[screen.index("\nAsk ") : screen.index("\nAttention ")].replace("Ask", "   ", 1)
    subprocess.run(["sh", "-c", lines], cwd=tmp_path, env={"PATH": f"{bin_folder}:/usr/bin:/bin"}, check=True)
    words = (tmp_path / "asked").read_text().splitlines()
    assert words[:6] == ["-sS", "--noproxy", "*", "--cacert", "gate.pem", "https://192.0.2.10:8443/v1/chat/completions"]
    key = "Authorization: Bearer sk-2\n"
    assert (tmp_path / "header").read_text() == key, "the key of the first client, not of one whose name ends alike"
    assert "sk-2" not in " ".join(words), "other accounts see arguments"
    assert "\n-H\n@-\n" in (tmp_path / "asked").read_text()
    assert words[-1] == "CERTIFICATE"
    assert '"model":"org/m"' in words[-2]


def test_a_gateway_with_a_certificate_of_the_site_needs_no_copy_of_it(tmp_path: Path) -> None:
    record = RECORD.model_copy(update={"self_signed": False, "models": {}})
    assert fleet(tmp_path / "a", gateway=record).json()["hosts"][2]["call"] == []
    [entry] = fleet(tmp_path / "b", gateway=RECORD.model_copy(update={"self_signed": False})).json()["hosts"][2]["call"]
    assert " | curl -sS --noproxy '*' https://192.0.2.10:8443/v1/chat/completions " in entry


def test_a_run_of_the_gateway_alone_does_not_report_drift_as_repaired(tmp_path: Path) -> None:
    run = around(tmp_path, "gateway", None)
    drift = Drift(kind="unit", path="/etc/systemd/system/firstlight-vllm.service", text="was changed")
    run.write("facts/gate.json", facts("gate", installed=Installed(prefix="/opt/firstlight", drift=(drift,))))
    [note] = summarise(run).hosts[0].notes
    assert note.startswith("drift, repaired: ")
    run.write("gateway/gate.json", RECORD)
    [note] = summarise(run).hosts[0].notes
    assert note.startswith("drift: ")


def test_a_failed_gateway_has_no_address(tmp_path: Path) -> None:
    run = around(tmp_path, "gateway", RECORD, status="failed", text="no")
    assert summarise(run).hosts[0].gateway is None
