"""vllm-router on the gateways of a run: what is sent, set up and removed, and what the run says of hosts that give no tokens."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provision.core.errors import StageError
from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts, OperatingSystem
from provision.core.models.inventory import Connection, Host, Inventory
from provision.core.models.records import PhaseResult
from provision.core.models.settings import Settings
from provision.core.models.staged import StagedFile
from provision.core.run_folder import RunFolder
from provision.core.unit_set import UnitSet
from provision.features.gateway import routers as gateway_routers
from provision.features.gateway.backends import Backend, Gateway
from provision.report.live import open_progress
from provision.run.context import RunContext
from provision.run.results import ProbedHosts

WHEEL = b"the wheel"
BACKENDS = tuple(
    Backend("m", address, 8000, None, name=name, address=address)
    for name, address in (("gpu-1", "10.0.0.5"), ("gpu-2", "10.0.0.6"))
)


class Gate:
    """A gateway as its session shows it, and what the run did to it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.printed = "gpu-1 200\ngpu-2 200\n"
        self.sets: list[UnitSet] = []
        self.removed: list[str] = []

    def run(self, command: str, **_: Any) -> SimpleNamespace:
        if "sha256sum" in command:
            path = command.rpartition(" ")[2]
            total = hashlib.sha256(self.files[path]).hexdigest() if path in self.files else ""
            return SimpleNamespace(stdout=f"{total}  {path}\n" if total else "")
        return SimpleNamespace(stdout=self.printed)

    def write(self, path: str, content: bytes, **_: Any) -> None:
        self.files[path] = content

    def rest(self) -> None:
        """Nothing is kept open."""

    def close(self) -> None:
        """Nothing is kept open."""

    def play(
        self, _context: Any, _probed: Any, playbook: str, sets: Mapping[str, Sequence[UnitSet]]
    ) -> dict[str, PhaseResult]:
        assert playbook == "gateway_router"
        self.sets = [one for each in sets.values() for one in each]
        return {name: PhaseResult(host=name, phase="serve", status="ok") for name in sets}

    def remove(
        self, _context: Any, _probed: Any, _playbook: str, hosts: Sequence[Host], _absent: Any
    ) -> dict[str, PhaseResult]:
        self.removed = [host.name for host in hosts]
        return {name: PhaseResult(host=name, phase="serve", status="ok", changed=True) for name in self.removed}


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    one, wheel = Gate(), tmp_path / "router.whl"
    wheel.write_bytes(WHEEL)
    staged = StagedFile(
        name=wheel.name, path=str(wheel), sha256=hashlib.sha256(WHEEL).hexdigest(), size=len(WHEEL), kind="tool"
    )
    monkeypatch.setattr(RunContext, "session", lambda *_: one)
    monkeypatch.setattr(gateway_routers, "stage_router", lambda *_: staged)
    monkeypatch.setattr(gateway_routers, "play_differing", one.play)
    monkeypatch.setattr(gateway_routers, "play_removal", one.remove)
    return one


def set_up(
    folder: Path, *, balance: str = "router", machine: str = "x86_64", had: bool = False
) -> tuple[RunContext, dict[str, PhaseResult]]:
    """Set the routers of a gateway up."""
    settings = Settings.model_validate({"gateway_balance": balance})
    host = Host(name="gate", groups=("gateway",), connection=Connection(kind="ssh", address="gate"), settings=settings)
    context = RunContext(
        run=RunFolder.create(folder / "logs", command="gateway"),
        inventory=Inventory(source="test", hosts=(host,)),
        progress=open_progress(["gate"], stream=io.StringIO(), environment={}),
        cache=folder,
        scope="all",
    )
    facts = HostFacts(host="gate", probed_at="2026-11-20T11:00:00Z", os=OperatingSystem(machine=machine))
    probed = ProbedHosts({"gate": facts}, {"gate": InstallPaths(prefix="/p", incoming="/p", owner="root", root=True)})
    made = Gateway(Settings(gateway_balance="router"), BACKENDS, {}, "/p/gateway")
    return context, gateway_routers.set_up(context, probed, [host], {"gate": made}, {"gate": had})


def test_a_gateway_gets_the_wheel_once_and_a_unit_that_names_it(gate: Gate, tmp_path: Path) -> None:
    _, results = set_up(tmp_path)
    assert gate.files == {"/p/gateway-router/wheels/router.whl": WHEEL}
    [one] = gate.sets
    assert hashlib.sha256(WHEEL).hexdigest() in one.files["routers.json"]
    assert (results["gate"].status, gate.removed) == ("ok", [])
    gate.files["/p/gateway-router/wheels/router.whl"] = b"damaged"
    set_up(tmp_path)
    assert gate.files == {"/p/gateway-router/wheels/router.whl": WHEEL}


def test_hosts_that_give_no_tokens_are_a_warning_with_what_to_do(gate: Gate, tmp_path: Path) -> None:
    gate.printed = "gpu-1 403\ngpu-2 403\ngpu-3 503\ngpu-4 0\ngpu-5 404\n"
    _, results = set_up(tmp_path)
    assert results["gate"].status == "warn"
    assert results["gate"].text == (
        "vllm-router chooses only by the fewest requests: to a request for the tokens of a prompt, vLLM answers gpu-1, gpu-2 with 403; gpu-5 with 404"
    )
    assert "--enable-scale-out" in str(results["gate"].hint)


def test_a_machine_without_a_wheel_is_named(gate: Gate, tmp_path: Path) -> None:
    context, results = set_up(tmp_path, machine="riscv64")
    assert (results, gate.sets) == ({}, [])
    failed = context.outcomes.results["gate"]["serve"]
    assert "vllm-router has no wheel for its machine, riscv64" in str(failed.text)
    assert "prefixes" in str(failed.hint)


def test_an_index_without_the_wheel_fails_the_gateway(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> StagedFile:
        raise StageError("uv: no version of vllm-router", hint="look at the index")

    monkeypatch.setattr(gateway_routers, "stage_router", refuse)
    context, results = set_up(tmp_path)
    assert results == {}
    assert context.outcomes.results["gate"]["serve"].text == "uv: no version of vllm-router"


@pytest.mark.parametrize(("had", "removed"), [(True, ["gate"]), (False, [])])
def test_a_router_goes_with_the_setting(gate: Gate, tmp_path: Path, had: bool, removed: list[str]) -> None:
    _, results = set_up(tmp_path, balance="requests", had=had)
    assert gate.removed == removed
    assert gate.sets == []
    assert [*results] == removed
