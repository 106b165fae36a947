"""Batches of a run: which hosts change together, and when no further batch begins. The phases are stand-ins."""

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.core.errors import Exit, UsageError
from provision.core.models.inventory import Span
from provision.core.models.records import CheckRecord, HostSummary, PhaseName, PhaseResult, Summary
from provision.core.models.stack import Plan, Resolution
from provision.pipeline import Amount, Batching, CommandRequest
from provision.pipeline.runner import RunOutcome, execute, exit_code
from provision.run.context import RunContext
from provision.run.results import PlannedHosts, ProbedHosts, StagedHosts
from provision.run.step import Step
from tests.pipeline.command_lines import inventory_of
from tests.pipeline.local_context import local_host


class Fleet:
    """Hosts in an inventory, and phases that do nothing but fail for some of them."""

    def __init__(self, folder: Path, names: str) -> None:
        self.folder, self.names = folder, names
        self.fails: dict[str, str] = {}
        """By host: the step that it fails in."""
        self.interrupts_at = ""
        self.log: list[str] = []

    def run(self, batch: str, max_fail: str | None = None, *, only_around: bool = False) -> RunOutcome:
        inventory = inventory_of(self.folder, **{name: {"ansible_connection": "local"} for name in self.names})
        batching = Batching.parse(batch, max_fail)
        request = CommandRequest("provision", inventory, None, {}, self.folder / "logs", batching=batching)
        steps = (
            self.step("probe", "probe"),
            self.step("plan", "plan"),
            self.step("stage", "stage", in_batches=True),
            self.step("serve", "serve", in_batches=True),
            self.step("gateway", "serve", last=True),
        )
        return execute(request, steps[:: len(steps) - 1] if only_around else steps)

    def step(self, name: str, phase: PhaseName, *, in_batches: bool = False, last: bool = False) -> Step:
        def call(context: RunContext, earlier: Any) -> ProbedHosts:
            names = [host.name for host in context.hosts()]
            self.log.append(f"{name} {''.join(names)}")
            for host in names:
                if host == self.interrupts_at and name == "serve":
                    raise KeyboardInterrupt
                status: Any = "failed" if self.fails.get(host) == name else "ok"
                if last:
                    continue
                context.record(PhaseResult(host=host, phase=phase, status=status, changed=phase == "serve"))
                if status == "failed":
                    context.outcomes.failures.add(Exit.RED)
            if name == "plan":
                return PlannedHosts(plan=Plan(classes=(Resolution(hosts=tuple(names), stack=None),)))
            if name == "stage":
                return StagedHosts(**vars(earlier), desired=cast("Any", dict.fromkeys(names, "desired")))
            return cast("ProbedHosts", earlier)

        return Step(name, call, phase, "all" if last else "provisioned", in_batches=in_batches)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, "abcde")


def test_each_batch_serves_before_the_next_begins(fleet: Fleet) -> None:
    outcome = fleet.run("2")
    assert fleet.log == [
        *("probe abcde", "plan abcde"),
        *("stage ab", "serve ab", "stage cd", "serve cd", "stage e", "serve e"),
        "gateway abcde",
    ]
    assert outcome.exit_code == Exit.OK
    assert isinstance(outcome.result, StagedHosts)
    assert set(outcome.result.desired) == set("abcde")


def test_steps_without_a_batch_run_once(fleet: Fleet) -> None:
    """`--limit gateway` leaves only what is around the hosts."""
    assert fleet.run("25%", only_around=True).exit_code == Exit.OK
    assert fleet.log == ["probe abcde", "gateway abcde"]


def test_a_failure_stops_the_batches_that_follow(fleet: Fleet) -> None:
    fleet.fails = {"b": "serve"}
    outcome = fleet.run("40%")
    assert fleet.log[2:] == ["stage ab", "serve ab", "gateway a"]
    assert outcome.exit_code == Exit.RED
    left = {host.name: host for host in outcome.summary.hosts if host.state == "interrupted"}
    assert [*left] == ["c", "d", "e"]
    texts = {host.phases["stage"].text for host in left.values()}
    assert texts == {"not begun: of 5 hosts 1 failed (b), and `--max-fail 0` allows 0"}
    assert outcome.summary.next_commands[-1].endswith("provision --limit c,d,e")


@pytest.mark.parametrize("phase", ["verify", "serve"])
def test_a_failed_check_beside_a_locked_host_is_another_reason(phase: PhaseName) -> None:
    """A host that is locked may have checks that failed earlier: they are no reason of this run."""
    bad = CheckRecord(id="devices.ecc", family="devices", status="fail", host="a", reason="3 errors")
    own = PhaseResult(host="a", phase=phase, status="failed", text="as it is")
    failed = HostSummary(name="a", state="failed", changed=False, checks=(bad,), phases={phase: own})
    locked = HostSummary(
        name="b", state="failed", changed=False, phases={"plan": PhaseResult(host="b", phase="plan", status="failed")}
    )
    about: dict[str, Any] = {
        "run": "r",
        "command": "provision",
        "started_at": "",
        "verdict": "red",
        "changed": 0,
        "seconds": 1,
    }
    summary = Summary(**about, hosts=(failed, locked))
    assert exit_code(summary, {Exit.LOCKED}) == (Exit.RED if phase == "verify" else Exit.LOCKED)
    compared = Summary(**about, hosts=(locked,), host_comparison=(bad,))
    assert exit_code(compared, {Exit.LOCKED}) == Exit.RED


def test_batches_begin_until_more_hosts_failed_than_allowed(fleet: Fleet) -> None:
    fleet.fails = {"a": "stage", "c": "serve", "d": "serve"}
    fleet.run("1", "40%")
    assert fleet.log[2:] == [
        *("stage a", "serve ", "stage b", "serve b", "stage c", "serve c", "stage d", "serve d"),
        "gateway b",
    ]


def test_hosts_that_failed_before_their_batch_are_in_none(fleet: Fleet) -> None:
    fleet.fails = {"a": "probe"}
    fleet.run("2")
    assert fleet.log[2:] == ["stage bc", "serve bc", "stage de", "serve de", "gateway bcde"]


def test_an_interruption_names_the_hosts_of_all_batches(fleet: Fleet) -> None:
    fleet.interrupts_at = "c"
    outcome = fleet.run("2")
    assert outcome.exit_code == Exit.INTERRUPTED
    assert [host.name for host in outcome.summary.hosts if host.state == "interrupted"] == ["c", "d", "e"]


@given(
    names=st.lists(st.text("abc", min_size=1), unique=True, max_size=30),
    number=st.integers(1, 100),
    is_percent=st.booleans(),
)
def test_every_host_is_in_one_batch(names: list[str], number: int, is_percent: bool) -> None:
    hosts = [local_host(name) for name in names]
    batches = list(Batching(Amount(number, is_percent)).split(hosts))
    assert [name for batch in batches for name in batch] == names
    assert all(batches)
    largest = max(1, len(names) * number // 100 if is_percent else number)
    assert all(len(batch) == largest for batch in batches[:-1])


def test_hosts_that_serve_one_model_are_in_one_batch() -> None:
    together = Span(members=("b", "d", "e"), addresses=("10.0.0.1", "10.0.0.2", "10.0.0.3"))
    spans = dict.fromkeys(together.members, together)
    hosts = [local_host(name, span=spans.get(name)) for name in "abcdef"]
    assert [list(Batching(Amount(number)).split(hosts)) for number in (2, 4)] == [
        [["a"], ["b", "d", "e"], ["c", "f"]],
        [["a", "b", "d", "e"], ["c", "f"]],
    ]


@pytest.mark.parametrize(
    ("batch", "max_fail", "text"),
    [
        ("0", None, "`--batch 0` is not between 1 and all hosts"),
        ("120%", None, "`--batch 120%` is not between 1 and 100%"),
        ("half", None, "`--batch half` is no whole number and no percentage"),
        ("2", "-1", "`--max-fail -1` is no whole number and no percentage"),
        (None, "5%", "`--max-fail 5%` needs `--batch`"),
    ],
)
def test_a_wrong_amount_is_refused(batch: str | None, max_fail: str | None, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Batching.parse(batch, max_fail)
    assert caught.value.text == text
    assert caught.value.hint
