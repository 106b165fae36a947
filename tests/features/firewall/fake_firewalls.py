"""Hosts with firewalls, as the sessions and playbooks of a run show them."""

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts, Installed, Port
from provision.core.models.inventory import Connection, Host, Inventory, Service, Span
from provision.core.models.records import PhaseResult
from provision.core.models.settings import Settings
from provision.core.run_folder import RunFolder
from provision.features.firewall import step as firewall
from provision.features.firewall.rules import FIREWALL, RULES, START, RuleSet, loaded_command
from provision.fleet.locks import HostLock
from provision.fleet.ssh.session import Completed
from provision.report.live import open_progress
from provision.run import playbooks
from provision.run.context import RunContext, RunOptions
from provision.run.results import ProbedHosts

READINESS = {"served_name": "m", "supervisor": "systemd", "unit": "u"}


class FakeHost:
    """A host as its session shows it: what it was sent, and the rules that playbooks loaded there."""

    def __init__(self, name: str) -> None:
        self.host = name
        self.sent: dict[str, dict[str, bytes]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        """By the name of the set."""
        self.units: dict[str, dict[str, str]] = {}
        self.port = 8000
        self.bind: str | None = "0.0.0.0"
        """Where its server listens; None where it has none."""
        self.sources = "10.0.0.1"
        self.routes: dict[str, str] = {}
        """Its address in other networks, by the address that it connects to."""
        self.listening: tuple[Port, ...] = ()
        self.refused: set[str] = set()
        """Names of hosts that do not accept its connections."""
        self.locked_out: list[FakeHost] = []
        """Hosts that do not accept them once they have rules."""

    def run(self, command: str, **_: Any) -> Completed:
        if command.startswith("test -e"):
            units = [unit for there in self.units.values() for unit in there]
            return Completed(0 if command.rpartition("/")[2] in units else 1, "", "")
        return Completed(0, self._answer(command), "")

    def _answer(self, command: str) -> str:
        if "getent" in command:
            asked = re.findall(r"getent ahosts (\S+) .*?do echo (\S+) ", command)
            routes = ((name, self.routes.get(address, self.sources)) for address, name in asked)
            return "".join(f"{name} 10.0.0.5 dev eth0 src {source}\n" for name, source in routes if source)
        if "/dev/tcp" in command:
            asked = re.findall(r"&& echo (\S+)\)", command)
            refused = self.refused | {other.host for other in self.locked_out if other.units}
            return "\n".join(name for name in asked if name.partition(":")[0] not in refused)
        if "sha256sum" in command and (found := [name for name in self.units if f"/{name}/current" in command]):
            contents = {**self.files[found[0]], **{name: text.encode() for name, text in self.units[found[0]].items()}}
            sums = [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in contents.items()]
            return "\n".join([*sums, *(f"enabled active {name}" for name in self.units[found[0]])])
        return self.rules() if command == loaded_command("/p") else ""

    def rules(self, rule_set: RuleSet = FIREWALL) -> str:
        """Return the rules that are loaded; empty without any."""
        return self.files.get(rule_set.name, {}).get(RULES, b"").decode()

    def read(self, path: str, **_: Any) -> bytes:
        if path.endswith("state.json"):
            readiness = {**READINESS, "host": self.bind, "port": self.port} if self.bind else None
            return json.dumps({"readiness": readiness}).encode()
        return b"VLLM_API_KEY=sk-0123456789abcdef0123\n"

    def write(self, path: str, content: bytes, **_: Any) -> None:
        folder, name = path.rsplit("/", 1)
        self.sent.setdefault(folder, {})[name] = content

    def close(self) -> None:
        """Nothing is kept open."""


class Fleet:
    """A gateway and two hosts behind it, over several runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = {name: FakeHost(name) for name in ("gate", "mon", "gpu-1", "gpu-2")}
        self.played: list[tuple[str, list[str]]] = []

    def run_playbook(
        self,
        _context: RunContext,
        _probed: ProbedHosts,
        playbook: str,
        hosts: Sequence[Host],
        variables: Callable[[Host], Mapping[str, Any]],
        **_: Any,
    ) -> dict[str, PhaseResult]:
        """Do what the playbook does."""
        results = {}
        for host in hosts:
            fake, given = self.hosts[host.name], variables(host)
            assert playbook == "firewall"
            for one in given["firstlight_unit_sets"]:
                fake.files[one["name"]], fake.units[one["name"]] = fake.sent.pop(one["incoming"]), dict(one["units"])
            for one in given.get("firstlight_unit_sets_absent", []):
                assert one in [{"name": each.name, "units": [each.unit]} for each in (FIREWALL, START)]
                fake.files.pop(one["name"], None)
                fake.units.pop(one["name"], None)
            results[host.name] = PhaseResult(host=host.name, phase="serve", status="ok", changed=True)
        if hosts:
            removes = bool(variables(hosts[0]).get("firstlight_unit_sets_absent"))
            self.played.append(("remove" if removes else "load", [host.name for host in hosts]))
        return results

    def run(self, *, limited: bool = False, root: bool = True, **given: Any) -> RunContext:
        """Run the step `firewall` once; return its context."""
        context = self.open_run(limited=limited, **given)
        firewall.apply(context, ProbedHosts(self.facts(context), self.paths(context, root=root)))
        return context

    def open_run(
        self,
        *,
        limited: bool = False,
        gateway: bool = True,
        monitoring: bool = False,
        span: bool = False,
        services: bool = False,
        **settings: Any,
    ) -> RunContext:
        """Return the context of a run in which gateways and hosts of a span have results already.

        With `services`, gpu-1 and gpu-2 are services of one machine.
        """
        self.played.clear()

        def host(name: str, group: str) -> Host:
            connection = Connection(kind="ssh", address=f"{name}.example")
            return Host(name=name, groups=(group,), connection=connection, settings=Settings(**settings))

        hosts = [host("gate", "gateway")] if gateway else []
        hosts += [host("mon", "monitoring")] if monitoring else []
        hosts += [host("gpu-1", "serving"), host("gpu-2", "serving")]
        if span:
            two = Span(members=("gpu-1", "gpu-2"), addresses=("10.1.0.1", "10.1.0.2"))
            hosts = [one.model_copy(update={"span": two}) if one.name in two.members else one for one in hosts]
        if services:
            both = tuple((one.name, one.settings) for one in hosts[-2:])
            hosts[-2:] = [
                one.model_copy(update={"service": Service(name=one.name, machine="gpu", services=both)})
                for one in hosts[-2:]
            ]
        context = RunContext(
            run=RunFolder.create(self.folder / "logs", command="gateway"),
            inventory=Inventory(source="test", hosts=tuple(hosts)),
            progress=open_progress([one.name for one in hosts], stream=io.StringIO(), environment={}),
            cache=self.folder,
            options=RunOptions(limited=limited),
        )
        if gateway:
            context.record(PhaseResult(host="gate", phase="serve", status="ok", text="gateway to 2 hosts"))
        for name in ("gpu-1", "gpu-2") if span else ():
            context.record(PhaseResult(host=name, phase="serve", status="ok", text="serves"))
        return context

    def facts(self, context: RunContext) -> dict[str, HostFacts]:
        """Return what a probe finds."""
        return {
            one.name: HostFacts(
                host=one.name,
                probed_at="2026-11-20T11:00:00Z",
                ports=self.hosts[one.name].listening,
                installed=Installed(prefix="/p", firewall=bool(self.hosts[one.name].units)),
            )
            for one in context.inventory.hosts
        }

    @staticmethod
    def paths(context: RunContext, *, root: bool = True) -> dict[str, InstallPaths]:
        """Return where the product is on each host."""
        paths = InstallPaths(prefix="/p", incoming="/p", owner="root", root=root)
        return {one.name: paths for one in context.inventory.hosts}

    def rules(self, name: str) -> str:
        return self.hosts[name].rules()


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    one = Fleet(tmp_path)

    def lock(context: RunContext, _probed: Any, _phase: str, hosts: Sequence[Host]) -> list[Host]:
        context.sessions.locks |= {host.name: Mock(spec=HostLock) for host in hosts}
        return [*hosts]

    monkeypatch.setattr(RunContext, "session", lambda _, host: one.hosts[host.name])
    monkeypatch.setattr(playbooks, "run_playbook", one.run_playbook)
    monkeypatch.setattr(playbooks, "acquire_locks", lock)
    return one
