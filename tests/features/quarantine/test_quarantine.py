"""Quarantine: hosts are marked while they are verified, left out of later runs, and released. Checks and gateways are stand-ins."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from provision.core.errors import Exit
from provision.core.files import write_atomically
from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts, Installed
from provision.core.models.inventory import Connection, Host
from provision.core.models.records import CheckRecord, PhaseResult
from provision.core.models.settings import Settings
from provision.features.gateway import step as gateway
from provision.features.gateway.draining import Answers
from provision.features.gateway.traffic import HostTraffic, Traffic
from provision.features.quarantine import quarantine
from provision.features.quarantine.marks import NAME, Quarantine, QuarantineStore, in_force, mark_of
from provision.features.quarantine.quarantine import return_to_service
from provision.features.quarantine.step import STEP
from provision.phases.verify import step as verify
from provision.phases.verify.run_checks import CheckOptions, Verified
from provision.phases.verify.step import verify_live
from provision.pipeline import CommandRequest, operations
from provision.pipeline.runner import RunOutcome, execute
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from provision.run.served import Served
from provision.run.step import Step
from tests.fleet.command_runner import CommandRunner
from tests.waiting import wait_until
from verify.records import CheckResult, as_record

MARK = Quarantine(at="2026-01-02T00:00:00Z", check="devices.ecc", text="uncorrected errors")


class Site:
    """Hosts of this machine, each with a prefix of its own; `bad` is what their checks find."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.logs = folder, folder / "logs"
        self.bad: dict[str, tuple[str, Any]] = {}
        """By host: a check and how it ends; all others pass."""
        self.passes = ["devices.ecc"]
        self.reached: list[str] = []
        self.told: list[tuple[str, dict[str, Any]]] = []
        """What each gateway was asked to change."""
        self.behind = "a"
        """Hosts that the gateway knows."""
        self.live = {"a", "b"}
        """Hosts on which a release is live."""
        for name in "ab":
            (folder / name).mkdir()
        monkeypatch.setattr(verify, "run_checks", self.checks)
        monkeypatch.setattr(quarantine, "ask", self.ask)
        monkeypatch.setattr(operations, "PROBE", Step("probe", self.probe, "probe", "all", reads_only=True))

    def checks(self, session: Any, **_: Any) -> Verified:
        results = dict.fromkeys(self.passes, ("ok", "as it should be"))
        if found := self.bad.get(session.host):
            results[found[0]] = (found[1], "as it should not be")
        records = [
            as_record(id_, session.host, None, CheckResult(cast("Any", status), reason), 0.1)
            for id_, (status, reason) in results.items()
        ]
        document = {"host": session.host, "started_at": "2026-01-03T00:00:00Z", "torch": None, "checks": records}
        return Verified(tuple(map(CheckRecord.model_validate, records)), document)

    def ask(self, context: Any, gateways: Sequence[Host], **request: Any) -> Answers:
        told = {key: value for key, value in request.items() if value}
        self.told += [(gateway.name, told) for gateway in gateways if told]
        behind = tuple(HostTraffic(name, "m", "up", True, 0.0, 0, 0, 0, 0) for name in self.behind)
        return Answers({gateway.name: Traffic(gateway.name, behind) for gateway in gateways})

    def mark_on_host(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name / NAME
        return cast("dict[str, Any]", json.loads(path.read_text())) if path.exists() else None

    def kept(self, name: str) -> Any:
        return QuarantineStore(self.logs).get(self.host(name))

    def host(self, name: str) -> Host:
        return Host(name=name, connection=Connection(kind="local"), settings=Settings())

    def probe(self, context: RunContext, earlier: Any) -> ProbedHosts:
        facts, paths = {}, {}
        for host in context.hosts():
            prefix = str(self.folder / host.name)
            live = "e" * 16 if host.name in self.live else None
            installed = Installed(prefix=prefix, current=live, quarantine=self.mark_on_host(host.name))
            facts[host.name] = HostFacts(host=host.name, probed_at="2026-01-03T00:00:00Z", installed=installed)
            paths[host.name] = InstallPaths(prefix=prefix, incoming=prefix, owner="root", root=False)
            context.record(PhaseResult(host=host.name, phase="probe", status="ok"))
        return ProbedHosts(facts, paths)

    def request(self, command: str, *, behind_gateway: bool = True) -> CommandRequest:
        inventory = self.folder / "hosts.yml"
        hosts = {name: {"ansible_connection": "local"} for name in "ab"}
        gate = {"gateway": {"hosts": {"gate": {"ansible_connection": "local"}}}} if behind_gateway else {}
        inventory.write_text(json.dumps({"all": {"children": {"gpus": {"hosts": hosts}, **gate}}}))
        return CommandRequest(command, inventory, None, {}, self.logs)

    def verify(self) -> RunOutcome:
        step = Step("verify", lambda context, probed: verify_live(context, probed, CheckOptions("standard")), "verify")
        return execute(self.request("verify"), (Step("probe", self.probe, "probe", "all"), step))

    def find_bad(self, *names: str) -> RunOutcome:
        """Verify with a card that fails on these hosts."""
        self.bad = dict.fromkeys(names, ("devices.ecc", "fail"))
        return self.verify()

    def provision(self) -> RunOutcome:
        """Make a run whose only change is to note which hosts it reaches."""

        def serve(context: RunContext, earlier: Any) -> ProbedHosts:
            self.reached = [host.name for host in context.hosts()]
            for name in self.reached:
                context.record(PhaseResult(host=name, phase="serve", status="ok"))
            return cast("ProbedHosts", earlier)

        steps = (Step("probe", self.probe, "probe", "all"), STEP, Step("serve", serve, "serve"))
        return execute(self.request("provision"), steps)

    def return_to_service(self) -> int:
        options = CheckOptions("full")
        return operations.verify(self.request("verify"), options, check_hosts=return_to_service)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def state(outcome: RunOutcome, name: str) -> str:
    return next(host.state for host in outcome.summary.hosts if host.name == name)


def test_a_host_with_a_failing_card_is_marked_on_itself_and_here(site: Site) -> None:
    outcome = site.find_bad("a")
    on_host, kept = site.mark_on_host("a"), site.kept("a")
    assert on_host is not None
    assert (on_host["check"], on_host["text"]) == ("devices.ecc", "as it should not be")
    assert kept.model_dump() == on_host
    assert (site.mark_on_host("b"), site.kept("b")) == (None, None)
    result = next(host for host in outcome.summary.hosts if host.name == "a").phases["verify"]
    assert result.notes == ("quarantined: later runs leave it out",)
    assert "--limit a --return" in (result.hint or "")
    assert outcome.exit_code == Exit.RED


def test_a_marked_host_gets_no_more_requests(site: Site) -> None:
    site.find_bad("a", "b")
    assert site.told == [("gate", {"drain": ["a"], "by": "run"})], "the gateway does not know b"


@pytest.mark.parametrize("behind", ["a", ""])
def test_a_gateway_without_the_released_host_forgets_that_it_was_drained(site: Site, behind: str) -> None:
    """A gateway that still has the host keeps it drained until a run has verified it."""
    site.find_bad("a")
    site.bad.clear()
    site.told.clear()
    site.behind = behind
    site.return_to_service()
    assert site.told == ([] if behind else [("gate", {"ready": ["a"], "by": "run"})])


def test_a_failure_of_software_marks_no_host(site: Site) -> None:
    site.bad["a"] = ("libraries.files", "fail")
    assert site.verify().exit_code == Exit.RED
    assert (site.mark_on_host("a"), site.kept("a")) == (None, None)


def test_a_host_that_cannot_be_written_is_marked_here(site: Site) -> None:
    (site.folder / "a").rmdir()
    outcome = site.find_bad("a")
    assert site.kept("a") is not None
    notes = next(host for host in outcome.summary.hosts if host.name == "a").phases["verify"].notes
    assert "could not be written on the host" in notes[0]
    assert state(site.provision(), "a") == "quarantined"


def test_a_query_too_sees_the_mark_that_this_controller_alone_has(site: Site) -> None:
    (site.folder / "a").rmdir()
    site.find_bad("a")
    reading = Step("probe", site.probe, "probe", "all", reads_only=True)
    outcome = execute(site.request("plan"), (reading, replace(STEP, reads_only=True)))
    assert state(outcome, "a") == "quarantined"
    assert site.kept("a") is not None


def test_the_mark_is_written_before_another_host_is_ready(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller may be killed while it waits for the slowest host."""
    checks = site.checks

    def slow(session: Any, **options: Any) -> Verified:
        if session.host == "b":
            wait_until(lambda: site.mark_on_host("a") is not None, "the mark is never written")
        return checks(session, **options)

    monkeypatch.setattr(verify, "run_checks", slow)
    assert state(site.find_bad("a"), "b") != "failed"


def test_later_runs_leave_the_host_out_with_its_reason(site: Site) -> None:
    site.find_bad("a")
    outcome = site.provision()
    assert site.reached == ["b"]
    assert (state(outcome, "a"), state(outcome, "b")) == ("quarantined", "unchanged")
    assert (outcome.summary.verdict, outcome.exit_code) == ("amber", Exit.OK)
    assert "check `devices.ecc`: as it should not be" in outcome.texts["summary.txt"]
    assert outcome.summary.next_commands[0].endswith("--return")


def test_a_run_without_any_other_host_is_red(site: Site) -> None:
    site.find_bad("a", "b")
    request = site.request("provision", behind_gateway=False)
    outcome = execute(request, (Step("probe", site.probe, "probe", "all"), STEP))
    assert (outcome.summary.verdict, outcome.exit_code) == ("red", Exit.RED)


def test_a_host_on_which_nothing_is_live_yet_is_not_marked(site: Site) -> None:
    """`verify --return` has nothing to run there, and each `provision` checks it before it serves."""
    site.live = {"b"}
    outcome = site.find_bad("a")
    assert (outcome.exit_code, state(outcome, "a")) == (Exit.RED, "failed")
    assert (site.mark_on_host("a"), site.kept("a")) == (None, None)


def test_the_mark_of_a_host_that_was_installed_anew_is_over(site: Site) -> None:
    site.find_bad("a")
    (site.folder / "a" / NAME).unlink()
    site.live = {"b"}
    site.provision()
    assert site.reached == ["a", "b"]
    assert site.kept("a") is None


def test_another_controller_sees_the_mark(site: Site) -> None:
    site.find_bad("a")
    site.logs = site.folder / "logs of another controller"
    assert state(site.provision(), "a") == "quarantined"
    assert site.kept("a").check == "devices.ecc"


def test_a_mark_that_nobody_can_read_holds(site: Site) -> None:
    (site.folder / "a" / NAME).write_text("{}")
    write_atomically(site.logs / "quarantine/b.json", "damaged")
    site.provision()
    assert site.reached == []


def test_a_host_of_the_same_name_at_another_address_is_not_meant(site: Site) -> None:
    there = Host(name="a", connection=Connection(kind="ssh", address="192.0.2.7"), settings=Settings())
    store = QuarantineStore(site.logs)
    store.put(there, MARK)
    assert store.get(there) is not None
    assert site.kept("a") is None
    site.provision()
    assert store.get(there) is not None, "its mark stays"


def test_a_green_verification_releases(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.find_bad("a")
    del site.bad["a"]
    assert site.return_to_service() == Exit.OK
    assert "a: returned to service" in capsys.readouterr().out
    assert (site.mark_on_host("a") or {})["released_at"]
    assert site.kept("a") is None
    site.provision()
    assert site.reached == ["a", "b"]
    assert site.return_to_service() == Exit.OK
    assert "no host is quarantined" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "code", "reason"),
    [
        (("devices.ecc", "fail"), 2, "check `devices.ecc` ended with fail: as it should not be"),
        (("kernels.gemm", "warn"), 1, "check `kernels.gemm` ended with warn: as it should not be"),
        (("devices.ecc", "skip"), 3, "check `devices.ecc`, which it was quarantined for, did not run"),
    ],
)
def test_anything_but_green_keeps_the_mark(
    site: Site, capsys: pytest.CaptureFixture[str], found: tuple[str, str], code: int, reason: str
) -> None:
    site.find_bad("a")
    site.bad["a"] = found
    assert site.return_to_service() == code
    assert f"a: stays quarantined: {reason}" in capsys.readouterr().out
    assert state(site.provision(), "a") == "quarantined"


def test_a_mark_that_cannot_be_lifted_on_the_host_stays_here_too(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.find_bad("a")
    del site.bad["a"]
    (site.folder / "a" / NAME).unlink()
    (site.folder / "a").rmdir()
    assert site.return_to_service() == 3
    assert "a: stays quarantined: its mark cannot be changed" in capsys.readouterr().out
    assert site.kept("a") is not None


def test_the_newer_of_two_marks_counts() -> None:
    lifted = MARK.model_copy(update={"released_at": "2026-02-01T00:00:00Z"})
    newer = MARK.model_copy(update={"at": "2026-02-02T00:00:00Z"})
    assert in_force(None, None) is None
    assert in_force(MARK, None) == MARK
    assert in_force(None, MARK) == MARK
    assert in_force(lifted, MARK) is None, "another controller released it"
    assert in_force(lifted, newer) == newer, "it could not be written on the host"
    assert in_force(newer, MARK) == newer
    assert mark_of(None, "/p") is None


def test_a_gateway_forgets_what_a_marked_host_served(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Served("m", "10.0.0.1", 8000, None)
    monkeypatch.setattr("provision.run.served._read_served", lambda *_, **__: known)
    found: list[set[str]] = []

    def set_up(context: RunContext, probed: Any) -> ProbedHosts:
        before = gateway.Before(served={"a": known, "b": known})
        found.append(set(gateway._served(context, probed, [before])))
        return cast("ProbedHosts", probed)

    steps = (Step("probe", site.probe, "probe", "all"), STEP, Step("gateway", set_up, "serve", "all"))
    execute(site.request("gateway"), steps)
    QuarantineStore(site.logs).put(site.host("a"), MARK)
    execute(site.request("gateway"), steps)
    assert found == [{"a", "b"}, {"b"}]


def test_status_names_the_reason(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.find_bad("a")
    operations.status(site.request("status"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if "quarantined since" in line] == ["a"]
    operations.status(replace(site.request("status"), as_json=True))
    document = json.loads(capsys.readouterr().out)
    assert (document["a"]["quarantine"]["check"], document["b"]["quarantine"]) == ("devices.ecc", None)


@pytest.mark.slow
def test_a_marked_host_is_read_and_left_alone_by_the_real_commands(tmp_path: Path) -> None:
    """With the real probe, and a mark that another controller wrote."""
    prefix, environment = tmp_path / "prefix", "e" * 16
    (prefix / "envs" / environment).mkdir(parents=True)
    (prefix / "current").symlink_to(f"envs/{environment}")
    (prefix / NAME).write_text(MARK.model_dump_json())
    inventory = tmp_path / "hosts.yml"
    host = {"ansible_connection": "local", "firstlight_prefix": str(prefix)}
    inventory.write_text(json.dumps({"all": {"hosts": {"here": host}}}))
    firstlight = CommandRunner(tmp_path / "logs")
    planned = firstlight("plan", "-i", str(inventory))
    assert planned.code == Exit.RED, planned.output()
    assert "would change" not in planned.out
    assert MARK.text in planned.out
    done = firstlight("provision", "-i", str(inventory))
    assert done.code == Exit.RED, done.output()
    assert done.host("here")["state"] == "quarantined"
    assert MARK.text in done.out
    assert f"./firstlight verify -i {inventory} --return" in done.summary["next_commands"]
    assert {path.name for path in prefix.iterdir()} == {NAME, "envs", "current"}, "nothing was installed"
    assert MARK.sentence in firstlight("status", "-i", str(inventory)).out
