"""The reported state and release of a host whose service did not start. Playbooks and proofs are substitutes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from provision.core.errors import UsageError
from provision.core.models.facts import HostFacts, Installed
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult, ServeRecord, Summary
from provision.pipeline import CommandRequest, operations
from provision.pipeline.runner import RunOutcome
from provision.report.run_files import read
from provision.report.summary_builder import build
from provision.report.text import render
from provision.run import playbooks, proof, rollback
from provision.run.context import LeftOut, RunContext
from provision.run.host_changes import release_changes
from provision.run.results import ProbedHosts
from provision.run.rollback import may_return, prune, require_digest, return_refused, roll_back
from provision.run.step import Step
from tests.pipeline.local_context import local_context, own_paths

OLD, NEW = "0" * 16, "1" * 16


def result(status: Literal["ok", "failed"], text: str | None = None) -> PhaseResult:
    return PhaseResult(host="node", phase="serve", status=status, text=text, hint="see its log", evidence=("line",))


class Site:
    """One host whose release NEW failed to start."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.playbooks = folder, list[str]()
        self.outcome, self.ready, self.answer = "ok", True, ServeRecord(ready=True)
        monkeypatch.setattr(playbooks, "run_playbook", self.run_playbook)
        monkeypatch.setattr(playbooks, "acquire_locks", lambda *asked: list(asked[-1]))
        monkeypatch.setattr(proof, "ask", lambda context, probed, requests: dict.fromkeys(requests, self.answer))

    def context(self, **settings: Any) -> RunContext:
        return local_context(self.folder, ["node"], settings=settings)

    def probed(self, **values: Any) -> ProbedHosts:
        known = {
            "prefix": str(self.folder),
            "current": "e1",
            "previous": "e0",
            "release": OLD,
            "releases": (OLD,),
            **values,
        }
        facts = HostFacts(host="node", probed_at="2026-01-01T00:00:00Z", installed=Installed(**known))
        return ProbedHosts({"node": facts}, {"node": own_paths(self.folder)})

    def has(self, release: str | None) -> None:
        """Give the host this state."""
        state = {"release": release, "readiness": {"unit": "firstlight-vllm.service"}}
        (self.folder / "state.json").write_text(json.dumps(state if release else None))

    def run_playbook(
        self, context: RunContext, _probed: ProbedHosts, playbook: str, hosts: list[Host], *_: Any
    ) -> dict[str, PhaseResult]:
        self.playbooks += [playbook] if hosts else []
        if hosts and self.outcome == "failed":
            context.reject(result("failed", "the unit did not start"))
            return {}
        return {host.name: result("ok").model_copy(update={"changed": True}) for host in hosts}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def refuse(site: Site, **settings: Any) -> dict[str, Any]:
    """Let the start of NEW fail; return the host of the summary."""
    context = site.context(**settings)
    context.reject(result("failed", "it ended with 2"))
    return_refused(context, site.probed(), {"node": NEW})
    context.write_results()
    return build(read(context.run)).model_dump()["hosts"][0]  # type: ignore[no-any-return]


def test_a_host_that_returned_to_its_release_is_failed_with_both_releases_and_the_proof(site: Site) -> None:
    site.has(OLD)
    host = refuse(site)
    serve = host["phases"]["serve"]
    assert site.playbooks == ["rollback"]
    assert (host["state"], host["changed"], host["release"], host["refused"]) == ("failed", True, OLD, NEW)
    assert serve["text"] == (
        f"release `{NEW}` was refused: it ended with 2; release `{OLD}` serves again, its answers are right"
    )
    assert "./firstlight provision" in serve["hint"]
    assert serve["evidence"] == ("line",)


def test_an_earlier_release_that_does_not_serve_either_is_reported(site: Site) -> None:
    site.has(OLD)
    site.answer = ServeRecord(ready=False, text="token 1 is wrong")
    text = refuse(site)["phases"]["serve"]["text"]
    assert text.endswith(f"release `{OLD}` was started again, and does not serve either: token 1 is wrong")


def test_a_failed_return_keeps_its_reason(site: Site) -> None:
    site.outcome = "failed"
    host = refuse(site)
    assert host["phases"]["serve"]["text"] == (
        f"release `{NEW}` was refused: it ended with 2; the return to the release before failed: the unit did not start"
    )
    assert host["release"] is None


@pytest.mark.parametrize("left", [NEW, None])
def test_without_a_proven_release_the_failure_stays_unchanged(site: Site, left: str | None) -> None:
    site.has(left)
    host = refuse(site)
    assert (host["phases"]["serve"]["text"], host["refused"]) == ("it ended with 2", None)


def test_a_host_does_not_return_if_the_setting_forbids_it(site: Site) -> None:
    host = refuse(site, on_failure="leave")
    assert (site.playbooks, host["phases"]["serve"]["text"]) == ([], "it ended with 2")


@pytest.mark.parametrize(
    ("installed", "tried", "expected"),
    [
        ({}, NEW, True),
        ({"current": None, "release": None}, NEW, False),
        ({"release": NEW, "last_ready": {"release": NEW}}, NEW, False),
        ({"release": NEW, "last_ready": {"release": OLD}}, NEW, True),
        ({"release": None}, NEW, True),
    ],
)
def test_a_release_that_was_proven_before_stays(
    site: Site, installed: dict[str, Any], tried: str, *, expected: bool
) -> None:
    assert may_return(site.probed(**installed).facts["node"], tried) is expected


def test_only_a_third_release_is_removed(site: Site) -> None:
    context = site.context()
    prune(context, site.probed(), {"node": NEW})
    assert site.playbooks == []
    prune(context, site.probed(releases=(OLD, "2" * 16)), {"node": NEW})
    assert site.playbooks == ["prune"]


def rolled_back(site: Site, **values: Any) -> Summary:
    """Return the summary of a rollback of a host with these values."""
    context = site.context()
    roll_back(context, site.probed(**values))
    context.write_results()
    return build(read(context.run))


@pytest.mark.parametrize(
    ("to", "values", "text", "hint"),
    [
        (NEW, {}, f"there is no release `{NEW}`; the host has `{OLD}`", "./firstlight rollback"),
        (
            None,
            {"current": None, "release": None, "releases": ()},
            "nothing is installed there",
            "./firstlight provision",
        ),
        (None, {"previous": None}, "there is no earlier release; nothing was changed", ""),
    ],
)
def test_a_rollback_that_leads_nowhere_is_refused_before_its_playbook(
    site: Site, to: str | None, values: dict[str, Any], text: str, hint: str
) -> None:
    context = site.context()
    roll_back(context, site.probed(**values), to=to)
    failed = context.outcomes.results["node"]["serve"]
    assert failed.text == f"host `node`: {text}"
    assert hint in (failed.hint or "")
    assert site.playbooks == []


def test_a_failed_rollback_is_followed_by_no_return(site: Site) -> None:
    site.has(OLD)
    site.outcome = "failed"
    host = rolled_back(site).hosts[0]
    assert site.playbooks == ["rollback"]
    assert (host.phases["serve"].text, host.changed) == ("the unit did not start", False)


def test_a_rollback_reports_the_resulting_release(site: Site) -> None:
    site.has(OLD)
    host = rolled_back(site).hosts[0]
    assert (host.release, host.phases["serve"].status) == (OLD, "ok")


def test_a_rollback_says_what_it_changed(site: Site) -> None:
    readiness = {"unit": "firstlight-vllm.service", "port": 8001}
    context = site.context()
    for folder, version in (("e0", "0.31.0"), ("e1", "0.32.0")):
        context.wheelhouse().put("environments", folder, {"vLLM": version, "torch": "2.13.0"})
    before = {"release": NEW, "environment": "e1", "model": "builtin-1", "readiness": readiness}
    after = before | {"release": OLD, "environment": "e0-2", "readiness": readiness | {"port": 8000}}
    (site.folder / "state.json").write_text(json.dumps(after))
    roll_back(context, site.probed(release=NEW, releases=(OLD, NEW), previous_release=OLD, state=before))
    context.write_results()
    summary = build(read(context.run))
    expected = ("vLLM 0.32.0 -> 0.31.0", "port 8001 -> 8000", f"release {NEW} -> {OLD}")
    assert summary.hosts[0].rolled_back == expected
    text = " ".join(render(summary).split())
    assert text.count(f"rolled back: {', '.join(expected)}") == 2, "on the first screen, and in the notes"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"release": NEW}, {"release": NEW, "environment": "e1"}, ()),
        ({}, {"release": OLD}, ()),
        ({"release": NEW, "environment": "e1"}, {"release": OLD, "environment": "e0"}, ("environment e1 -> e0",)),
        ({"release": NEW, "model": "one"}, {"release": OLD, "model": "two"}, ("model one -> two",)),
        ({"release": NEW}, {"release": OLD}, ("the unit, arguments or variables of the service",)),
    ],
)
def test_releases_are_compared_by_what_their_states_record(
    before: dict[str, Any], after: dict[str, Any], expected: tuple[str, ...]
) -> None:
    release = (f"release {NEW} -> {OLD}",) if expected else ()
    assert release_changes(before, after, lambda _: {}) == (*expected, *release)


def test_what_stands_around_hosts_follows_a_rollback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = list[str]()

    def execute(_request: CommandRequest, steps: Sequence[Step]) -> RunOutcome:
        ran.extend(step.name for step in steps)
        raise KeyboardInterrupt

    monkeypatch.setattr(operations, "execute", execute)
    with pytest.raises(KeyboardInterrupt):
        operations.rollback(
            CommandRequest(command="rollback", inventory=tmp_path, limit=None, overrides={}, logs=tmp_path)
        )
    assert ran == ["probe", "rollback", "watchdog", "gateway", "monitoring", "firewall"]


def test_a_quarantined_host_is_rolled_back_and_gets_no_requests(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.has(OLD)
    why = LeftOut("memory errors", "./firstlight verify --return", {})
    monkeypatch.setattr(rollback, "left_out", lambda *_: why)
    context = site.context()
    roll_back(context, site.probed())
    assert (site.playbooks, context.outcomes.left_out) == (["rollback"], {"node": why})


@pytest.mark.parametrize("text", ["", "latest", "0" * 15, "0" * 17, "G" * 16])
def test_an_invalid_digest_is_a_wrong_option(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        require_digest(text)
    assert f"`{text}`" in refused.value.text
    assert refused.value.hint
    assert require_digest(NEW) == NEW


def test_hosts_of_one_model_go_back_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other host is proven too, and returns with the head whose answers are wrong."""
    asked: list[list[str]] = []
    played: list[tuple[str, list[str]]] = []

    def play(
        _context: RunContext, _probed: ProbedHosts, playbook: str, hosts: list[Host], *_: Any
    ) -> dict[str, PhaseResult]:
        played.extend([(playbook, [host.name for host in hosts])] if hosts else [])
        return {host.name: result("ok").model_copy(update={"host": host.name}) for host in hosts}

    def ask(_context: RunContext, _probed: ProbedHosts, requests: dict[str, Any]) -> dict[str, ServeRecord]:
        asked.append([*requests])
        wrong = ServeRecord(ready=False, text="3 of 32 tokens differ")
        return {
            name: ServeRecord(ready=True) if request.get("headless") else wrong for name, request in requests.items()
        }

    monkeypatch.setattr(playbooks, "run_playbook", play)
    monkeypatch.setattr(playbooks, "acquire_locks", lambda *given: list(given[-1]))
    monkeypatch.setattr(proof, "ask", ask)
    context = local_context(tmp_path, "ho", together="ho")
    facts, paths = {}, {}
    states: dict[str, dict[str, Any]] = {
        "h": {"readiness": {"unit": "u"}},
        "o": {"member": {"unit": "u", "headless": True}},
    }
    for name, state in states.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "state.json").write_text(json.dumps({"release": OLD, **state}))
        installed = Installed(prefix=str(folder), current="e1", previous="e0", release=NEW, releases=(OLD, NEW))
        facts[name] = HostFacts(host=name, probed_at="2026-01-01T00:00:00Z", installed=installed)
        paths[name] = own_paths(folder)
    roll_back(context, ProbedHosts(facts, paths))
    assert asked[:2] == [["h"], ["o"]]
    assert played[:2] == [("rollback", ["h", "o"]), ("rollback", ["h", "o"])], "there, and back together"
    text = "`h` serves the same model, and is not ready: 3 of 32 tokens differ"
    assert text in str(context.outcomes.results["o"]["serve"].text)
