"""Hosts that serve a release each, with substitutes for the runs that change them; the record and the hooks of a rollout are real."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from provision.core.errors import Exit
from provision.core.models.inventory import Connection, Host, Inventory, Span
from provision.core.models.records import HostSummary, PhaseResult, Summary
from provision.features.rollout import commands as rollout
from provision.features.rollout.model import Decision, HostProgress, Rollout, RolloutHost
from provision.features.rollout.store import RolloutStore
from provision.fleet.inventory.settings import Problems, settings_of
from provision.pipeline import CommandRequest
from provision.pipeline.runner import RunOutcome
from provision.run.results import AnsweredHosts, StagedHosts
from provision.run.step import Step

OLD, NEW = "0" * 16, "1" * 16


def recorded(*progress: HostProgress, **values: Any) -> Rollout:
    """Return the record of a rollout whose hosts, `a`, `b` and so on, change one after another."""
    hosts = tuple(
        RolloutHost(name=name, step=step, before=OLD, after=NEW, state=state)
        for step, (name, state) in enumerate(zip("abcd", progress, strict=False))
    )
    start: dict[str, Any] = {"name": "20260101T000000Z", "started_at": "2026-01-01T00:00:00Z", "inventory": "/site"}
    return Rollout(**(start | {"steps": (50, 100), "hosts": hosts} | values))


class KilledError(BaseException):
    """A substitute for SIGKILL: no code of the process runs after it."""


class Site:
    """Hosts that serve a release each, and runs that change it."""

    def __init__(self, logs: Path, names: Sequence[str]) -> None:
        self.logs = logs
        self.serves = dict.fromkeys(names, OLD)
        self.states: dict[str, dict[str, Any]] = {}
        """What hosts say of their releases before the rollout, beside what clients ask."""
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
        self.holds: list[float] = []
        """Seconds that each gate is told to observe at least."""
        self.alike: list[str] = []
        """Hosts whose times each gate compares with the old one's."""
        self.is_interrupted = False
        """Whether the last gate had to end its observation."""
        self.has_gateway = False
        self.canaries: dict[str, float] = {}
        """What the gateway got last: the percentage that hosts share, 0 for those that join."""
        self.drained: set[str] = set()
        """Hosts that the rollout left without requests."""
        self.blind: set[str] = set()
        """Hosts whose watchdog cannot be set up after a rollback."""
        self.quarantined: set[str] = set()
        self.silent: set[int] = set()
        """Runs, by their number, in which the gateway does not answer."""
        self.away: dict[int, set[str]] = {}
        """Hosts that cannot be reached in a run, by its number."""
        self.watched: list[str] = []
        """Hosts whose watchdogs were set up last, after a rollback."""
        self.models: list[str] = []
        """The model of each run."""
        self.content: dict[str, Any] = {}
        """Environment, model and attention of the new release, as states have them."""
        self.is_renamed = False
        """Whether clients have to name the model of the new release otherwise."""
        self.suggested = ""
        """A command that the last run would suggest."""
        self._during: dict[int, Callable[[], object]] = {}

    def during(self, run: int, happens: Callable[[], object]) -> None:
        """Let something happen at the beginning of a run, by its number."""
        self._during[run] = happens

    def kill_in(self, run: int) -> None:
        """Kill the controller in a run, by its number."""

        def kill() -> None:
            raise KilledError

        self.during(run, kill)

    def _begin(self, run: str) -> None:
        self.runs.append(run)
        if happens := self._during.get(len(self.runs)):
            happens()

    def inventory(self, request: CommandRequest) -> Inventory:
        wanted = None if request.limit is None else request.limit.split(",")
        spans = {name: Span(members=one, addresses=("10.0.0.1",) * len(one)) for one in self.spans for name in one}
        settings = settings_of("h", variables={}, overrides=request.overrides, base=Path("/"), problems=Problems())
        assert settings is not None
        host = partial(Host, connection=Connection(kind="local"), settings=settings)
        hosts = [
            host(name=name, groups=self.groups.get(name, ()), span=spans.get(name))
            for name in self.serves
            if wanted is None or {name, *self.groups.get(name, ())} & {*wanted}
        ]
        if self.has_gateway and (wanted is None or "gateway" in wanted):
            hosts.append(host(name="gate", groups=("gateway",)))
        return Inventory(source="test", hosts=tuple(hosts))

    def execute(self, request: CommandRequest, steps: Sequence[Step]) -> RunOutcome:
        hosts = self.inventory(request).hosts
        names = [host.name for host in hosts if host.name in self.serves]
        self.models += {host.settings.model for host in hosts}
        self.suggested = request.invocation.suggest("status")
        switches = [step for step in steps if step.name in ("serve", "rollback")]
        last = [*(switches or steps)][-1]
        if last.name == "canary":
            given = cast("partial[Any]", last.run).keywords
            self._begin(f"share {given['percent']} {','.join(given['names'])} +{','.join(given['joining'])}")
            if len(self.runs) in self.silent:
                return self.outcome([], {}, AnsweredHosts(answer="HAProxy does not answer"))
            self.drained |= {*given["out"]}
            self.canaries = dict.fromkeys(given["names"], given["percent"]) | dict.fromkeys(given["joining"], 0)
            return self.outcome([], {}, AnsweredHosts(answer=""))
        if last.name == "watchdog":
            self.watched = names
            return self.outcome(names, {name: "no agent" for name in names if name in self.blind}, None)
        self._begin(f"{last.name} {','.join(names)}")
        failed: dict[str, str] = {}
        before, after = ({"readiness": {"served_name": name}} for name in ("m", "n" if self.is_renamed else "m"))
        facts: Any = {
            name: SimpleNamespace(
                installed=SimpleNamespace(release=self.serves[name], state=before | self.states.get(name, {}))
            )
            for name in names
        }
        desired: Any = dict.fromkeys(names, SimpleNamespace(state={"release": NEW, **after, **self.content}))
        up_to_date = frozenset(name for name in names if self.serves[name] == NEW)
        result: Any = StagedHosts(facts=facts, desired=desired, up_to_date=up_to_date)
        if last.name == "gate":
            verdict: Any = self.gates.pop(0) if self.gates else "go on"
            given = cast("partial[Any]", last.run).keywords
            self.holds.append(given["hold_s"])
            self.is_interrupted = given["is_interrupted"]()
            self.alike.append("".join(given["alike"]))
            text = "3 of 600 requests failed"
            result = AnsweredHosts(answer=Decision(step=given["step"], at="", verdict=verdict, text=text))
        elif last.name == "rollback":
            # The command `rollback` names no release: the one before.
            digests = cast("partial[Any]", last.run).keywords["to"] or {
                name: OLD if self.serves[name] == NEW else NEW for name in names
            }
            assert [*digests] == names
            bad = [name for name, digest in digests.items() if digest == NEW and name in self.bad]
            failed = dict.fromkeys(bad, "the unit did not start")
            self.serves |= {name: digest for name, digest in digests.items() if name not in failed}
        elif last.name == "serve":
            failed = self._refused(hosts, steps, result)
            failed |= {name: "the unit did not start" for name in names if name in self.bad}
            out = self.quarantined | self.away.get(len(self.runs), set())
            changed = [name for name in names if name not in out and "would get another" not in failed.get(name, "")]
            self.serves |= {name: NEW for name in changed if name not in failed or self.stays_bad}
        return self.outcome(names, failed, result)

    def _refused(self, hosts: Sequence[Host], steps: Sequence[Step], result: Any) -> dict[str, str]:
        """Return why the step that looks at what was staged refuses hosts."""
        refused: dict[str, str] = {}
        context = SimpleNamespace(
            hosts=lambda: hosts, fail=lambda name, _, error: refused.update({name: f"{error.text}; {error.hint}"})
        )
        for step in steps:
            if step.name == "release":
                step.run(context, result)
        return refused

    def outcome(self, names: Sequence[str], failed: dict[str, str], result: Any) -> RunOutcome:
        hosts = tuple(self._summary(name, failed.get(name)) for name in names)
        is_red = any(result.has_failed for host in hosts for result in host.phases.values())
        summary = Summary(
            run=f"20260101T0000{len(self.runs):02}Z",
            command="rollout",
            started_at="2026-01-01T00:00:00Z",
            verdict="red" if is_red else "green",
            changed=0,
            seconds=1.0,
            hosts=hosts,
        )
        return RunOutcome(summary, Exit.RED if is_red else Exit.OK, result, (), {"summary.txt": "", "summary.json": ""})

    def _summary(self, name: str, failure: str | None) -> HostSummary:
        is_away, is_out = name in self.away.get(len(self.runs), set()), name in self.quarantined
        ends: dict[Any, Any] = {
            "probe": "unreachable" if is_away else "ok",
            "plan": "quarantined" if is_out else "ok",
            "serve": "failed" if failure else "ok",
        }
        phases = {each: PhaseResult(host=name, phase=each, status=end, text=failure) for each, end in ends.items()}
        state: Any = "failed" if failure else "quarantined" if is_out else "serving"
        return HostSummary(name=name, state=state, changed=True, phases=phases, release=self.serves[name])

    def request(self, limit: str | None = None) -> CommandRequest:
        return CommandRequest(command="rollout", inventory=Path("/site"), limit=limit, overrides={}, logs=self.logs)

    def start(self, steps: str = "25,50,100", limit: str | None = None, **options: Any) -> int:
        return rollout.start(self.request(limit), steps=steps, **options)

    def record(self) -> Rollout:
        found = RolloutStore(self.logs).newest()
        assert found is not None
        return found


Make = Callable[..., Site]
