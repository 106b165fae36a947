"""What `status` says of hosts that are gateways or monitor others. The probe and the gateways' answers are substitutes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from provision.core.errors import Exit
from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts, Installed, Port
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.features.gateway import hooks
from provision.features.gateway.draining import Answers, NotSetUpError
from provision.features.gateway.traffic import Traffic
from provision.pipeline import CommandRequest, operations
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from provision.run.step import Step
from tests.features.gateway.test_traffic import behind

INSTALLED: dict[str, Any] = {
    "state": {"release": "1" * 16},
    "release": "1" * 16,
    "releases": ("1" * 16,),
    "environments": ("e",),
    "service": "active",
    "last_ready": {
        "release": "1" * 16,
        "record": {"endpoint": "http://127.0.0.1:8000/v1", "model": "m", "chat": True, "ready": True},
    },
}
INVENTORY: dict[str, dict[str, dict[str, Any]]] = {
    "gpus": {"gpu-1": {}, "gpu-2": {}, "both": {}},
    "gateway": {"gate-1": {}, "gate-2": {}, "gate-3": {}, "both": {}, "all-in-one": {}},
    "monitoring": {"mon-1": {}, "mon-2": {"firstlight_monitoring_port": 9091}, "mon-3": {}, "all-in-one": {}},
}


def ask(_context: RunContext, gateways: Sequence[Host], **_: Any) -> Answers:
    hosts = (behind("gpu-1"), behind("gpu-2", state="drained", share=0), behind("both", "other", "down"))
    answers = {gateway.name: Traffic(gateway.name, hosts) for gateway in gateways}
    answers["gate-3"] = Traffic("gate-3", ())
    del answers["gate-2"]
    return Answers(answers, {"gate-2": NotSetUpError("gateway `gate-2` is not set up,\n or by another version")})


def probe(context: RunContext, _earlier: Any) -> ProbedHosts:
    facts, paths = {}, {}
    for host in context.hosts():
        name, prefix = host.name, "/opt/firstlight"
        found = Installed(prefix=prefix, **(INSTALLED if name in ("gpu-1", "both") else {}))
        facts[name] = HostFacts(
            host=name,
            probed_at="2026-01-03T00:00:00Z",
            installed=found.model_copy(update={"locked_by": {"run": "R"} if name == "gate-3" else None}),
            ports=(Port(port=9090),) if name == "mon-1" else (),
            unknown={"ports": "no permission"} if name == "mon-3" else {},
        )
        paths[name] = InstallPaths(prefix=prefix, incoming=prefix, owner="root", root=False)
        context.record(PhaseResult(host=name, phase="probe", status="ok"))
    return ProbedHosts(facts, paths)


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandRequest:
    monkeypatch.setattr(operations, "PROBE", Step("probe", probe, "probe", "all", reads_only=True))
    monkeypatch.setattr(hooks, "ask", ask)
    groups = {
        group: {"hosts": {name: {"ansible_connection": "local", **own} for name, own in hosts.items()}}
        for group, hosts in INVENTORY.items()
    }
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(json.dumps({"all": {"vars": {"firstlight_gateway_bind": "10.0.0.1"}, "children": groups}}))
    return CommandRequest("status", inventory, None, {}, tmp_path / "logs")


def test_a_gateway_and_a_monitoring_host_are_named_as_such(
    request_: CommandRequest, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    assert operations.status(request_) == Exit.OK
    assert capsys.readouterr().out == snapshot


def test_the_document_has_the_same(request_: CommandRequest, capsys: pytest.CaptureFixture[str]) -> None:
    operations.status(replace(request_, as_json=True))
    found = json.loads(capsys.readouterr().out)
    assert found["gpu-1"]["gateway"] is None
    serving = found["gpu-1"]["serving"]
    assert (serving["model"], serving["endpoint"]) == ("m", "http://127.0.0.1:8000/v1")
    assert serving["key_file"] == "/opt/firstlight/etc/service.env"
    assert "/v1/chat/completions" in serving["call"][-1]
    assert found["gate-1"]["serving"] is None
    assert found["gpu-1"]["monitoring"] is None
    assert found["gate-1"]["environments"] == []
    assert found["gate-1"]["gateway"]["endpoint"] == "https://10.0.0.1:8443/v1"
    drained = {"host": "gpu-2", "model": "m", "state": "drained", "share": 0, "drained_by": None}
    assert found["gate-1"]["gateway"]["hosts"][1] == drained
    assert (found["gate-2"]["gateway"]["hosts"], "is not set up" in found["gate-2"]["gateway"]["error"]) == (None, True)
    assert [found[name]["monitoring"]["listens"] for name in ("mon-1", "mon-2", "mon-3")] == [True, False, None]


def test_a_canary_without_a_share_is_told_and_counts_as_out_of_traffic(
    request_: CommandRequest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_canary(_context: RunContext, gateways: Sequence[Host], **_: Any) -> Answers:
        hosts = (behind("gpu-1", state="canary", share=0, canary=0.0), behind("gpu-2"))
        return Answers({gateway.name: Traffic(gateway.name, hosts) for gateway in gateways[:1]})

    monkeypatch.setattr(hooks, "ask", ask_canary)
    operations.status(request_)
    lines = capsys.readouterr().out.splitlines()
    assert "m (1 of 2 hosts in traffic: gpu-1 canary, gpu-2 up)" in next(line for line in lines if "gateway at" in line)
    assert lines[0].endswith("; canary with 0 % of requests at the gateway both")
