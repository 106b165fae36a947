"""In which order a run restarts hosts that get requests from a gateway; gateway, playbook and proof are stand-ins."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provision.core.errors import ServeError
from provision.core.models.facts import HostFacts, Installed
from provision.core.models.inventory import Connection, Host
from provision.core.models.records import PhaseResult, ServeRecord
from provision.core.models.settings import Settings
from provision.features.gateway import draining, hooks, restarts
from provision.features.gateway.draining import Answers
from provision.features.gateway.traffic import Traffic
from provision.phases.serve import step as phase
from provision.pipeline import CommandRequest
from provision.pipeline.runner import open_run
from provision.report.run_files import read
from provision.report.summary_builder import build
from provision.run import playbooks, rollback
from provision.run.context import RunContext, RunOptions
from provision.run.results import ProbedHosts, VerifiedHosts
from provision.run.served import served_of
from tests.features.gateway.test_traffic import behind
from tests.pipeline.local_context import local_context

READY = {"served_name": "m", "host": "10.0.0.1", "port": 8000}


class Site:
    """Hosts behind one gateway; `log` is what happened to them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.log = folder, list[str]()
        self.drained, self.fails, self.before = set[str](), set[str](), dict[str, dict[str, Any]]()
        self.breaks = set[str]()
        self.gateway = Host(name="gate", groups=("gateway",), connection=Connection(kind="local"), settings=Settings())
        for module in (restarts, draining):
            monkeypatch.setattr(module, "ask", self.ask)
        monkeypatch.setattr(restarts, "wait_until_empty", lambda context, gateways, names, limit_s: self.answers())
        monkeypatch.setattr(playbooks, "run_playbook", self.run_playbook)
        monkeypatch.setattr(phase, "prove", self.prove)
        monkeypatch.setattr(rollback, "return_refused", lambda *_: set())

    def answers(self) -> Answers:
        hosts = [behind(name, state="drained" if name in self.drained else "up") for name in "abc"]
        return Answers({"gate": Traffic("gate", tuple(hosts))})

    def ask(self, context: Any, gateways: Sequence[Host], **wish: Any) -> Answers:
        drain, ready = wish.get("drain", ()), wish.get("ready", ())
        self.log += [f"drain {name}" for name in drain] + [f"ready {name}" for name in ready]
        self.drained = (self.drained | {*drain}) - {*ready}
        return self.answers() if gateways else Answers()

    def run_playbook(
        self, context: RunContext, _probed: Any, playbook: str, hosts: list[Host], *_: Any
    ) -> dict[str, PhaseResult]:
        names = [host.name for host in hosts]
        self.log += [f"{playbook} {' '.join(names)}"] if names else []
        for name in self.breaks.intersection(names):
            context.fail(name, "serve", ServeError("the unit did not start"))
        whole = [name for name in names if name not in self.breaks]
        return {name: PhaseResult(host=name, phase="serve", status="ok", changed=True) for name in whole}

    def prove(self, context: RunContext, verified: Any, requests: dict[str, Any], *_: Any) -> dict[str, ServeRecord]:
        self.log += [f"prove {' '.join(requests)}"] if requests else []
        for name in requests:
            status: Any = "failed" if name in self.fails else "ok"
            context.record(PhaseResult(host=name, phase="serve", status=status))
        return {name: ServeRecord(ready=name not in self.fails) for name in requests}

    def serve(self, names: str, *, with_gateway: bool = True, again: str = "", together: str = "") -> RunContext:
        """Let a run restart hosts; those of `together` serve one model."""
        options = RunOptions(find_gateways=lambda: [self.gateway] if with_gateway else [])
        context = local_context(self.folder, names, together=together, options=options)
        context.run.write("inventory.json", context.inventory)
        state, service = {"release": "1" * 16, "readiness": READY}, SimpleNamespace(supervisor="systemd")
        desired = SimpleNamespace(state=state, readiness=READY, service=service, start_cache=None)
        before = {name: {"readiness": self.before.get(name, READY)} for name in names}
        installed = {name: Installed(prefix="/p", state=before[name]) for name in names}
        facts = {
            name: HostFacts(host=name, probed_at="2026-01-01T00:00:00Z", installed=installed[name]) for name in names
        }
        verified: Any = VerifiedHosts(facts=facts, desired=dict.fromkeys(names, desired))  # type: ignore[arg-type]
        phase.serve(context, verified, again=set(again))
        return context


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def test_hosts_behind_a_gateway_restart_in_turn(site: Site) -> None:
    site.serve("abd")
    assert site.log == [
        *("serve d", "prove d"),
        *("drain a", "serve a", "prove a", "ready a"),
        *("drain b", "serve b", "prove b", "ready b"),
    ]


def test_without_a_gateway_all_restart_at_once(site: Site) -> None:
    site.serve("abd", with_gateway=False)
    assert site.log == ["serve a b d", "prove a b d"]


def test_a_host_is_not_proven_while_another_of_its_span_could_not_be_switched(site: Site) -> None:
    site.breaks = {"e"}
    context = site.serve("ade", together="ae")
    assert site.log == ["serve d", "prove d", "drain a", "serve a e"]
    assert context.outcomes.results["a"]["serve"].text == "it serves a model together with `e`, which failed"


def test_hosts_that_serve_one_model_restart_together_with_their_head(site: Site) -> None:
    site.serve("abde", together="ae")
    assert site.log == [
        *("serve d", "prove d"),
        *("drain a", "serve a e", "prove a e", "ready a"),
        *("drain b", "serve b", "prove b", "ready b"),
    ]


def test_a_part_of_the_hosts_that_serve_one_model_is_not_restarted(site: Site) -> None:
    context = site.serve("abd", together="de")
    assert site.log == [
        *("drain a", "serve a", "prove a", "ready a"),
        *("drain b", "serve b", "prove b", "ready b"),
    ]
    assert context.outcomes.results["d"]["serve"].status == "failed"


def test_after_a_failure_the_others_stay_as_they_are(site: Site) -> None:
    site.fails = {"a"}
    context = site.serve("abc")
    assert site.log == ["drain a", "serve a", "prove a"]
    assert context.outcomes.results["b"]["serve"].status == context.outcomes.results["c"]["serve"].status == "skipped"
    context.write_results()
    hosts = {host.name: host for host in build(read(context.run)).hosts}
    assert "stays drained" in hosts["a"].notes[0]
    assert "./firstlight gateway ready a" in hosts["a"].notes[0]
    assert hosts["a"].state == "failed"
    assert "`a` did not serve again" in str(hosts["b"].phases["serve"].text)


@pytest.mark.parametrize("a", [{"served_name": "old"}, {"api_key": False}])
def test_hosts_that_gateways_will_not_find_any_more_restart_at_once(site: Site, a: dict[str, Any]) -> None:
    site.before = {"a": {**READY, **a}, "b": {**READY, "port": 1}}
    context = site.serve("abc")
    assert site.log[:2] == ["serve a b", "prove a b"]
    assert "its model, its address or its API key changed" in context.outcomes.results["a"]["serve"].notes[0]
    assert site.log[2:] == ["drain c", "serve c", "prove c", "ready c"]


def test_hosts_that_do_not_restart_are_not_drained(site: Site) -> None:
    site.serve("abc", again="abc")
    assert site.log == ["serve a b c", "prove a b c"]


def test_a_host_that_a_killed_run_drained_comes_back(site: Site) -> None:
    site.drained = {"a"}
    site.serve("a")
    assert site.log == ["serve a", "prove a", "ready a"]


@pytest.mark.slow
def test_a_run_over_a_part_of_the_inventory_finds_the_gateways_of_all_of_it(tmp_path: Path) -> None:
    local = {"ansible_connection": "local"}
    groups = {"gateway": {"hosts": {"gate": local}}, "serving": {"hosts": {"a": local, "b": local}}}
    for children, expected in ((groups, ["gate"]), ({"serving": groups["serving"]}, [])):
        path = tmp_path / f"{len(children)}.yml"
        path.write_text(json.dumps({"all": {"children": children}}))
        with open_run(CommandRequest("provision", path, "a", {}, tmp_path / "logs")) as context:
            assert [host.name for host in context.inventory.hosts] == ["a"]
            assert [host.name for host in context.options.find_gateways()] == expected


def test_a_limited_rollback_names_hosts_that_gateways_no_longer_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Host(name="gate", groups=("gateway",), connection=Connection(kind="local"), settings=Settings())
    context = local_context(tmp_path, "ab", options=RunOptions(limited=True, find_gateways=lambda: [gate]))
    states = {"a": {"readiness": READY | {"port": 8001}}, "b": {"readiness": READY}}
    installed = {name: Installed(prefix="/opt/firstlight", state=state) for name, state in states.items()}
    facts = {name: HostFacts(host=name, probed_at="", installed=one) for name, one in installed.items()}
    context.result = ProbedHosts(facts)
    monkeypatch.setattr(hooks, "ask", lambda *_: Answers())
    now = served_of(json.dumps(states["b"]), "VLLM_API_KEY=sk-1\n")
    monkeypatch.setattr(hooks, "ask_served", lambda *_: dict.fromkeys("ab", now))
    for name in "ab":
        context.record(PhaseResult(host=name, phase="serve", status="ok"))
    hooks.served_again(context, ["a", "b"])
    notes = {name: context.outcomes.results[name]["serve"].notes for name in "ab"}
    assert notes == {"a": (hooks.ELSEWHERE,), "b": ()}
