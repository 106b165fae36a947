"""A rollout from its first step to its end, with failures in between: runs on hosts are substitutes, its record and hooks are real."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from provision.core.errors import Exit, HostLockedError, InventoryError, UsageError
from provision.core.models.quarantine import Quarantine
from provision.core.models.records import HostSummary, PhaseResult, Summary
from provision.core.models.rollout import Decision, Rollout
from provision.core.models.settings import Connection, Host, Inventory, Settings, Span
from provision.fleet.quarantine import QuarantineStore
from provision.fleet.rollout.store import RolloutStore
from provision.pipeline import CommandRequest, rollout, rollout_driver
from provision.pipeline.canary import CanaryHosts
from provision.pipeline.phases import Step
from provision.pipeline.results import StagedHosts
from provision.pipeline.rollout_gate import GateResult, observed
from provision.pipeline.runner import RunOutcome

OLD, NEW = "0" * 16, "1" * 16
OPTIONS = rollout.RolloutOptions("25,50,100", 0, 0.0, None, None)


class KilledError(BaseException):
    """A substitute for SIGKILL: no code of the process runs after it."""


class Site:
    """Hosts that serve a release each, and runs that change it."""

    def __init__(self, logs: Path, names: Sequence[str]) -> None:
        self.logs = logs
        self.serves = dict.fromkeys(names, OLD)
        self.groups: dict[str, tuple[str, ...]] = {}
        self.spans: tuple[tuple[str, ...], ...] = ()
        """Hosts that serve one model together."""
        self.bad: set[str] = set()
        """Hosts on which the new release does not start."""
        self.stays_bad = False
        """Whether they do not return to their release automatically."""
        self.gates: list[str] = []
        """Verdicts of the next gates; then all say `go on`."""
        self.runs: list[str] = []
        self.has_gateway = False
        self.canaries: dict[str, float] = {}
        """What the gateway was told last: the percentage that hosts share, 0 for those that join."""
        self.quarantined: set[str] = set()
        self.silent: set[int] = set()
        """Runs, by their number, in which the gateway does not answer."""
        self.before_run: Callable[[int], None] = lambda _: None

    def inventory(self, request: CommandRequest) -> Inventory:
        wanted = None if request.limit is None else request.limit.split(",")
        spans = {name: Span(members=one, addresses=("10.0.0.1",) * len(one)) for one in self.spans for name in one}
        hosts = tuple(
            Host(
                name=name,
                groups=self.groups.get(name, ()),
                connection=Connection(kind="local"),
                settings=Settings(),
                span=spans.get(name),
            )
            for name in self.serves
            if wanted is None or name in wanted
        )
        if self.has_gateway and wanted in (None, ["gateway"]):
            gate = Host(name="gate", groups=("gateway",), connection=Connection(kind="local"), settings=Settings())
            hosts = (*hosts, gate)
        return Inventory(source="test", hosts=hosts)

    def execute(self, request: CommandRequest, steps: Sequence[Step]) -> RunOutcome:
        names = [host.name for host in self.inventory(request).hosts if host.name in self.serves]
        last = steps[-1]
        if last.name == "canary":
            told = cast("partial[Any]", last.run).keywords
            self.runs.append(f"share {told['percent']} {','.join(told['names'])} +{','.join(told['joining'])}")
            self.before_run(len(self.runs))
            if len(self.runs) in self.silent:
                return self.outcome([], {}, CanaryHosts(error="HAProxy does not answer"))
            self.canaries = dict.fromkeys(told["names"], told["percent"]) | dict.fromkeys(told["joining"], 0)
            return self.outcome([], {}, CanaryHosts())
        self.runs.append(f"{last.name} {','.join(names)}")
        self.before_run(len(self.runs))
        failed: dict[str, str] = {}
        result: Any = StagedHosts(
            facts=cast(
                "Any", {name: SimpleNamespace(installed=SimpleNamespace(release=self.serves[name])) for name in names}
            ),
            desired=cast("Any", {name: SimpleNamespace(state={"release": NEW}) for name in names}),
            up_to_date=frozenset(name for name in names if self.serves[name] == NEW),
        )
        if last.name == "gate":
            verdict = self.gates.pop(0) if self.gates else "go on"
            step = cast("partial[Any]", last.run).keywords["step"]
            decision = Decision(
                step=step, at="2026-01-01T00:00:00Z", verdict=cast("Any", verdict), text="3 of 600 requests failed"
            )
            result = GateResult(decision=decision)
        elif last.name == "rollback":
            digests = cast("partial[Any]", last.run).keywords["to"]
            assert [*digests] == names
            self.serves |= digests
        elif last.name == "serve":
            failed = {name: "the unit did not start" for name in names if name in self.bad}
            changed = [name for name in names if name not in self.quarantined]
            self.serves |= {name: NEW for name in changed if name not in failed or self.stays_bad}
        return self.outcome(names, failed, result)

    def outcome(self, names: Sequence[str], failed: dict[str, str], result: Any) -> RunOutcome:
        summary = Summary(
            run=f"20260101T0000{len(self.runs):02}Z",
            command="rollout",
            started_at="2026-01-01T00:00:00Z",
            verdict="red" if failed else "green",
            changed=0,
            seconds=1.0,
            hosts=tuple(
                HostSummary(
                    name=name,
                    state="failed" if name in failed else "quarantined" if name in self.quarantined else "serving",
                    changed=True,
                    phases={
                        "plan": PhaseResult(
                            host=name, phase="plan", status="quarantined" if name in self.quarantined else "ok"
                        ),
                        "serve": PhaseResult(
                            host=name, phase="serve", status="failed" if name in failed else "ok", text=failed.get(name)
                        ),
                    },
                    release=self.serves[name],
                )
                for name in names
            ),
        )
        return RunOutcome(summary, Exit.RED if failed else Exit.OK, result, (), {"summary.txt": "", "summary.json": ""})

    def request(self) -> CommandRequest:
        return CommandRequest(command="rollout", inventory=Path("/site"), limit=None, overrides={}, logs=self.logs)

    def start(self, options: rollout.RolloutOptions = OPTIONS) -> int:
        return rollout.start(self.request(), options, as_json=False)

    def record(self) -> Rollout:
        found = RolloutStore(self.logs).newest()
        assert found is not None
        return found


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Site]:
    def make(*names: str, folder: str = "logs") -> Site:
        site = Site(tmp_path / folder, names or ("a", "b", "c", "d"))
        for module in (rollout, rollout_driver):
            monkeypatch.setattr(module, "execute", site.execute)
        monkeypatch.setattr(rollout, "read_inventory", site.inventory)
        return site

    return make


def test_each_step_switches_its_hosts_and_then_asks_the_gate(
    make: Callable[..., Site], capsys: pytest.CaptureFixture[str]
) -> None:
    site = make()
    assert site.start() == Exit.OK
    assert site.runs == [
        "install a,b,c,d",
        "serve a",
        "gate a,b",
        "serve b",
        "gate a,b,c",
        "serve c,d",
        "gate a,b,c,d",
    ]
    assert set(site.serves.values()) == {NEW}
    record = site.record()
    assert (record.state, [host.state for host in record.hosts]) == ("done", ["updated"] * 4)
    assert [(one.step, one.verdict) for one in record.decisions] == [(0, "go on"), (1, "go on"), (2, "go on")]
    assert capsys.readouterr().out.splitlines()[0] == f"rollout {record.name}: done: 4 hosts serve the new release"


def test_hosts_of_a_step_share_its_percentage_at_the_gateway(make: Callable[..., Site]) -> None:
    site = make()
    site.has_gateway = True
    assert site.start(rollout.RolloutOptions("1,10,50,100", 0, 0.0, None, None)) == Exit.OK
    assert site.runs[1:-1] == [
        "share 0  +a",
        "serve a",
        "share 0 a +",
        "gate a,b",
        "share 1 a +",
        "gate a,b",
        "share 10 a +",
        "gate a,b",
        "share 10 a +b",
        "serve b",
        "share 50 a,b +",
        "gate a,b,c",
        "share 0  +",
        "serve c,d",
        "gate a,b,c,d",
    ]
    assert site.canaries == {}


@pytest.mark.parametrize("gates", [["roll back"], ["go on", "roll back"]], ids=["without clients", "with a share"])
def test_a_tripped_gate_ends_the_share_before_hosts_go_back(make: Callable[..., Site], gates: list[str]) -> None:
    site = make()
    site.has_gateway, site.gates = True, list(gates)
    assert site.start() == Exit.RED
    shared = ["share 25 a +", "gate a,b"] if len(gates) > 1 else []
    returned = ["share 0 a +", "rollback a", "share 0  +"]
    assert site.runs[3:] == ["share 0 a +", "gate a,b", *shared, *returned]
    assert (site.record().state, site.canaries) == ("rolled back", {})


def test_a_host_that_does_not_go_back_gets_no_share(make: Callable[..., Site]) -> None:
    site = make()
    site.serves["a"] = cast("str", None)
    site.has_gateway, site.bad = True, {"a"}
    assert site.start() == Exit.RED
    assert (site.record().state, site.canaries) == ("failed", {"a": 0})


def test_a_gateway_that_is_silent_pauses_the_rollout_and_stops_no_rollback(make: Callable[..., Site]) -> None:
    site = make()
    site.has_gateway, site.silent = True, {6}
    assert site.start() == Exit.RED
    record = site.record()
    assert record.state == "paused"
    assert record.text == "the share of the new release is not known to every gateway: HAProxy does not answer"
    site.silent, site.gates = {9}, ["roll back"]
    assert rollout.resume(site.request(), as_json=False) == Exit.RED
    assert site.runs[6:] == ["share 25 a +", "gate a,b", "share 0 a +", "rollback a", "share 0  +"]
    assert (site.record().state, site.canaries) == ("rolled back", {})


@pytest.mark.parametrize("command", ["resume", "abort"])
def test_a_killed_controller_leaves_no_share_behind(make: Callable[..., Site], command: str) -> None:
    for number in range(2, 20):
        site = make(folder=f"{command}{number}")
        site.has_gateway = True

        def kill(count: int, number: int = number) -> None:
            if count == number:
                raise KilledError

        site.before_run = kill
        try:
            assert site.start() == Exit.OK
        except KilledError:
            site.before_run = lambda _: None
            assert getattr(rollout, command)(site.request(), as_json=False) == Exit.OK
            assert set(site.serves.values()) == {NEW if command == "resume" else OLD}
            assert site.canaries == {}
        else:
            assert number > 14, "every run was tried"
            break
    else:
        pytest.fail("the rollout has more runs than were tried")


def test_a_quarantined_host_is_in_no_step(make: Callable[..., Site]) -> None:
    site = make()
    site.quarantined = {"a"}
    assert site.start() == Exit.OK
    assert site.runs == ["install a,b,c,d", "serve b", "gate b,c", "serve c", "gate b,c,d", "serve d", "gate b,c,d"]
    assert site.serves == {"a": OLD, "b": NEW, "c": NEW, "d": NEW}


def test_a_host_that_is_quarantined_meanwhile_is_left_out_and_takes_nothing_back(make: Callable[..., Site]) -> None:
    site = make()

    def mark(count: int) -> None:
        if count == 2:
            site.quarantined = {"a"}

    site.before_run = mark
    assert site.start() == Exit.OK
    assert site.runs == ["install a,b,c,d", "serve a", "serve b", "gate b,c", "serve c,d", "gate b,c,d"]
    record = site.record()
    assert [host.state for host in record.hosts] == ["quarantined", "updated", "updated", "updated"]
    assert record.text == "3 hosts serve the new release"


def test_a_quarantined_host_counts_as_none_that_serves(make: Callable[..., Site]) -> None:
    site = make()
    site.quarantined = {"a"}
    [host, *_] = site.inventory(site.request()).hosts
    mark = Quarantine(at="2026-01-01T00:00:00Z", check="devices.ecc", text="uncorrected errors")
    QuarantineStore(site.logs).put(host, mark, on_host=True)
    targets = site.logs.parent / "targets.json"
    assert site.start(rollout.RolloutOptions("100", 2, 0.0, None, None, targets)) == Exit.OK
    assert site.runs[1:] == ["serve b", "serve c", "serve d", "gate b,c,d"]
    assert [entry["labels"]["host"] for entry in json.loads(targets.read_text())] == ["b", "c", "d"]


def test_hosts_of_group_staging_come_first(make: Callable[..., Site]) -> None:
    site = make("a", "b", "s")
    site.groups["s"] = ("staging",)
    assert site.start(rollout.RolloutOptions("100", 0, 0.0, None, None)) == Exit.OK
    assert site.runs[1:] == ["serve s", "gate a,s", "serve a,b", "gate a,b,s"]


def test_no_more_hosts_change_at_once_than_the_load_allows(make: Callable[..., Site]) -> None:
    site = make()
    assert site.start(rollout.RolloutOptions("100", 2, 0.0, None, None)) == Exit.OK
    assert site.runs[1:] == ["serve a,b", "serve c,d", "gate a,b,c,d"]


def of_spans(make: Callable[..., Site]) -> Site:
    """A site of which `a` and `b` serve one model together, `c` and `d` a second copy of it."""
    site = make()
    site.spans = (("a", "b"), ("c", "d"))
    return site


def test_hosts_that_serve_one_model_together_change_as_one(make: Callable[..., Site], tmp_path: Path) -> None:
    site, path = of_spans(make), tmp_path / "targets.json"
    site.has_gateway = True
    seen = watched(site, path)
    assert site.start(rollout.RolloutOptions("50,100", 1, 0.0, None, None, path)) == Exit.OK
    assert site.runs[:-1] == [
        "install a,b,c,d",
        "share 0  +a",
        "serve a,b",
        "share 0 a +",
        "gate a,c",
        "share 50 a +",
        "gate a,c",
        "share 0  +",
        "serve c,d",
        "gate a,c",
    ]
    assert [targets for run, targets in seen if run.startswith("serve")] == ["c", "a"]
    with pytest.raises(UsageError, match="--min-serving 2"):
        site.start(rollout.RolloutOptions("100", 2, 0.0, None, None))


def test_one_bad_host_returns_all_of_its_span_each_to_its_own_release(make: Callable[..., Site]) -> None:
    site = of_spans(make)
    site.serves["b"], site.bad, site.stays_bad = "2" * 16, {"b"}, True
    assert site.start(rollout.RolloutOptions("50,100", 0, 0.0, None, None)) == Exit.RED
    assert site.runs == ["install a,b,c,d", "serve a,b", "rollback a,b"]
    assert site.serves == {"a": OLD, "b": "2" * 16, "c": OLD, "d": OLD}
    assert [host.state for host in site.record().hosts] == ["returned", "returned", "waiting", "waiting"]


@pytest.mark.parametrize("end", ["resume", "abort"])
def test_a_record_that_knows_one_host_of_a_span_changed_is_continued_for_all(
    make: Callable[..., Site], end: str
) -> None:
    site = of_spans(make)

    def kill(number: int) -> None:
        if number == 3:
            raise KilledError

    site.before_run = kill
    with pytest.raises(KilledError):
        site.start(rollout.RolloutOptions("50,100", 0, 0.0, None, None))
    store = RolloutStore(site.logs)
    store.put(store.require_open().with_host("b", state="changing"))
    site.runs.clear()
    site.before_run = lambda _: None
    assert getattr(rollout, end)(site.request(), as_json=False) == Exit.OK
    assert site.runs[0] == ("serve a,b" if end == "resume" else "rollback a,b")
    assert set(site.serves.values()) == {NEW if end == "resume" else OLD}


def test_a_span_that_could_not_return_is_refused_before_a_host_changes(make: Callable[..., Site]) -> None:
    site = of_spans(make)
    site.serves["b"] = cast("str", None)
    with pytest.raises(InventoryError, match="`b` served nothing before: a rollout could not take them back"):
        site.start()
    with pytest.raises(InventoryError, match="--limit leaves out `b`"):
        rollout.start(replace(site.request(), limit="a,c,d"), OPTIONS, as_json=False)
    assert site.runs == ["install a,b,c,d"]


@pytest.mark.parametrize("stays", [False, True])
def test_a_failed_host_rolls_all_changed_hosts_back(
    make: Callable[..., Site], capsys: pytest.CaptureFixture[str], *, stays: bool
) -> None:
    site = make()
    site.bad, site.stays_bad = {"c"}, stays
    assert site.start() == Exit.RED
    assert site.runs[-1] == "rollback a,b,c,d"
    assert set(site.serves.values()) == {OLD}
    record = site.record()
    assert (record.state, record.text) == ("rolled back", "c: the unit did not start")
    assert [host.state for host in record.hosts] == ["returned"] * 4
    assert "c: the unit did not start" in capsys.readouterr().out


def test_a_failed_gate_rolls_changed_hosts_back_and_does_not_change_the_others(make: Callable[..., Site]) -> None:
    site = make()
    site.gates = ["go on", "roll back"]
    assert site.start() == Exit.RED
    assert site.runs[-2:] == ["gate a,b,c", "rollback a,b"]
    assert [host.state for host in site.record().hosts] == ["returned", "returned", "waiting", "waiting"]
    assert site.record().text == "3 of 600 requests failed"


def test_a_gate_that_cannot_see_pauses_the_rollout_and_is_asked_again(make: Callable[..., Site]) -> None:
    site = make()
    site.gates = ["undecided"]
    assert site.start() == Exit.RED
    assert (site.record().state, site.serves["a"], site.runs[-1]) == ("paused", NEW, "gate a,b")
    assert rollout.resume(site.request(), as_json=False) == Exit.OK
    assert site.runs[3:5] == ["gate a,b", "serve b"]


def test_a_failed_host_without_a_previous_release_is_named(make: Callable[..., Site]) -> None:
    site = make()
    site.serves["a"] = cast("str", None)
    site.bad = {"a"}
    assert site.start() == Exit.RED
    record = site.record()
    assert (record.state, record.text) == ("failed", "a: the unit did not start; not on the release of before: a")


def test_nothing_is_done_if_every_host_is_up_to_date(
    make: Callable[..., Site], capsys: pytest.CaptureFixture[str]
) -> None:
    site = make()
    site.serves = dict.fromkeys(site.serves, NEW)
    assert site.start() == Exit.OK
    assert site.runs == ["install a,b,c,d"]
    assert "done: every host serves this release already" in capsys.readouterr().out
    assert RolloutStore(site.logs).newest() is None


@pytest.mark.parametrize("end", ["resume", "abort"])
@pytest.mark.parametrize("killed_in", range(2, 8))
def test_a_controller_that_is_killed_in_any_run_loses_nothing(
    make: Callable[..., Site], killed_in: int, end: str
) -> None:
    site = make()

    def kill(number: int) -> None:
        if number == killed_in:
            raise KilledError

    site.before_run = kill
    with pytest.raises(KilledError):
        site.start()
    assert site.record().state == "running"
    with pytest.raises(UsageError, match="is not over: running"):
        site.start()
    if end == "resume":
        assert rollout.resume(site.request(), as_json=False) == Exit.OK
        assert set(site.serves.values()) == {NEW}
        assert site.record().state == "done"
    else:
        assert rollout.abort(site.request(), as_json=False) == Exit.OK
        assert set(site.serves.values()) == {OLD}
        assert (site.record().state, site.record().text) == ("rolled back", "aborted")


def test_a_controller_killed_during_a_rollback_continues_it_after_resume(make: Callable[..., Site]) -> None:
    site = make()
    site.gates = ["roll back"]

    def kill(number: int) -> None:
        if number == 4:
            raise KilledError

    site.before_run = kill
    with pytest.raises(KilledError):
        site.start()
    assert site.record().state == "returning"
    assert rollout.resume(site.request(), as_json=False) == Exit.RED
    assert (site.record().state, set(site.serves.values())) == ("rolled back", {OLD})


def test_hooks_run_before_and_after_each_change_even_if_it_fails(make: Callable[..., Site], tmp_path: Path) -> None:
    site = make("a", "b")
    site.bad = {"b"}
    log = tmp_path / "hooks"
    before, after = (f'echo "{when} $FIRSTLIGHT_HOST $FIRSTLIGHT_ADDRESS" >> {log}' for when in ("before", "after"))
    assert site.start(rollout.RolloutOptions("50,100", 0, 0.0, before, after)) == Exit.RED
    lines = [f"{when} {name} {name}" for name in ("a", "b") for when in ("before", "after")]
    both = [f"{when} {name} {name}" for when in ("before", "after") for name in ("a", "b")]
    assert log.read_text().splitlines() == [*lines, *both]


def test_the_file_of_targets_has_only_hosts_that_take_requests(make: Callable[..., Site], tmp_path: Path) -> None:
    site, path = make(), tmp_path / "targets.json"
    seen = watched(site, path)
    assert site.start(replace(OPTIONS, targets=path)) == Exit.OK
    assert seen == [
        ("serve a", "bcd"),
        ("gate a,b", "abcd"),
        ("serve b", "acd"),
        ("gate a,b,c", "abcd"),
        ("serve c,d", "ab"),
        ("gate a,b,c,d", "abcd"),
    ]
    assert named(path) == "abcd"


def test_hosts_that_go_back_are_no_targets_meanwhile(make: Callable[..., Site], tmp_path: Path) -> None:
    site, path = make(), tmp_path / "targets.json"
    site.bad, site.stays_bad = {"b"}, True
    seen = watched(site, path)
    assert site.start(replace(OPTIONS, targets=path)) == Exit.RED
    assert seen == [("serve a", "bcd"), ("gate a,b", "abcd"), ("serve b", "acd"), ("rollback a,b", "cd")]
    assert named(path) == "abcd"


def watched(site: Site, path: Path) -> list[tuple[str, str]]:
    """Return a list that gets each run with the targets that were named during it."""
    seen: list[tuple[str, str]] = []

    def look(_count: int) -> None:
        if path.exists():
            seen.append((site.runs[-1], named(path)))

    site.before_run = look
    return seen


def test_a_killed_controller_leaves_the_host_at_work_out_of_the_targets(
    make: Callable[..., Site], tmp_path: Path
) -> None:
    site, path = make(), tmp_path / "targets.json"

    def kill(count: int) -> None:
        if count == 4:
            raise KilledError

    site.before_run = kill
    with pytest.raises(KilledError):
        site.start(replace(OPTIONS, targets=path))
    assert (site.runs[-1], named(path)) == ("serve b", "acd")
    site.before_run = lambda _: None
    assert rollout.resume(site.request(), as_json=False) == Exit.OK
    assert named(path) == "abcd"


def test_targets_that_cannot_be_written_pause_before_a_host_changes(make: Callable[..., Site], tmp_path: Path) -> None:
    site = make()
    (tmp_path / "file").write_text("")
    assert site.start(replace(OPTIONS, targets=tmp_path / "file/targets.json")) == Exit.RED
    assert (site.record().state, set(site.serves.values())) == ("paused", {OLD})
    assert "cannot be written" in str(site.record().text)


def named(path: Path) -> str:
    """Return the hosts of a file of targets."""
    return "".join(entry["labels"]["host"] for entry in json.loads(path.read_text()))


def test_a_failed_hook_pauses_the_rollout_and_the_host_is_not_changed(
    make: Callable[..., Site], capsys: pytest.CaptureFixture[str]
) -> None:
    site = make("a", "b")
    options = rollout.RolloutOptions("50,100", 0, 0.0, "echo the balancer is away >&2; exit 7", None)
    assert site.start(options) == Exit.RED
    assert site.runs == ["install a,b"]
    assert site.record().text == "the hook before host `a` ended with 7: the balancer is away"
    output = capsys.readouterr().out
    assert "paused: the hook before host `a` ended with 7" in output
    assert output.splitlines()[-1] == "next: ./firstlight rollout resume, or ./firstlight rollout abort"


@pytest.mark.parametrize(("wish", "state"), [("pause", "paused"), ("abort", "rolled back")])
def test_a_request_takes_effect_before_the_next_host(make: Callable[..., Site], wish: str, state: str) -> None:
    site = make()
    ask: dict[str, Callable[[], int]] = {
        "pause": lambda: rollout.pause(site.request(), as_json=False),
        "abort": lambda: rollout.abort(site.request(), as_json=False),
    }

    def while_it_runs(number: int) -> None:
        if number == 2:
            assert ask[wish]() == Exit.OK

    site.before_run = while_it_runs
    assert site.start() == Exit.RED
    assert site.record().state == state
    assert site.serves["b"] == OLD
    if wish == "pause":
        assert rollout.resume(site.request(), as_json=False) == Exit.OK
        assert set(site.serves.values()) == {NEW}


def test_only_one_process_controls_a_rollout(make: Callable[..., Site]) -> None:
    site = make()
    with RolloutStore(site.logs).locked(), pytest.raises(HostLockedError, match="another process"):
        site.start()
    assert site.runs == []


def test_status_names_each_host_and_each_decision(
    make: Callable[..., Site], capsys: pytest.CaptureFixture[str]
) -> None:
    site = make("a", "b")
    assert rollout.status(site.request(), as_json=False) == Exit.OK
    assert capsys.readouterr().out == "there was no rollout yet\n"
    site.gates = ["go on", "roll back"]
    site.start(rollout.RolloutOptions("50,100", 0, 0.0, None, None))
    capsys.readouterr()
    rollout.status(site.request(), as_json=False)
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"      50 %  a  went back to release {OLD}",
        "            gate: go on: 3 of 600 requests failed",
        f"     100 %  b  went back to release {OLD}",
        "            gate: roll back: 3 of 600 requests failed",
    ]
    rollout.status(site.request(), as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["state"], document["driven"]) == ("rolled back", False)


def test_requests_of_clients_and_broken_streams_count_in_addition_to_synthetic_ones() -> None:
    answer = {"sent": 64, "failed": 0, "first_token_s": [0.1], "counters": {"finished": 1300.0, "failed": 7.0}}
    first = observed(answer, None)
    assert (first.requests, first.failed) == (64, 0), "what came before the step is not of the step"
    later = observed(answer, {"finished": 1000.0, "failed": 5.0})
    assert (later.requests, later.failed) == (302, 2)
    broken = observed({**answer, "failed": 9}, {"finished": 1290.0, "failed": 7.0})
    assert (broken.requests, broken.failed) == (64, 9)
    restarted = observed(answer, {"finished": 9000.0, "failed": 90.0})
    assert (restarted.requests, restarted.failed) == (64, 0)
