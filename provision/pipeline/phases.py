"""The order of a run: its phases, and the tasks that run in the background. Nothing else knows it."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from provision.core.frozen import frozen
from provision.core.models.phase_names import PHASES, PhaseName

if TYPE_CHECKING:
    from provision.pipeline.context import BackgroundTask, RunContext
    from provision.pipeline.results import ProbedHosts

    PhaseFunction = Callable[..., ProbedHosts]
    """Takes the RunContext and the result of the phase before; returns the phase's own result."""
    StartFunction = Callable[..., BackgroundTask | None]
    """Takes the same; returns None where there is nothing to do."""
    PrepareFunction = Callable[[RunContext], None]
    Condition = Callable[[RunContext], bool]

Scope = Literal["all", "provisioned"]
"""Hosts of a step: all, or without those that are a gateway or monitor, and nothing else."""


class LazyFunction:
    """A function of this package that is imported when it is called, or before, while hosts answer the probe."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        return cast("Callable[..., Any]", pkgutil.resolve_name(f"provision.pipeline.{self._name}"))

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function."""
        return self.load()(*args, **options)


@frozen
class Step:
    """One entry of the order."""

    name: str
    run: PhaseFunction
    phase: PhaseName
    """The phase that its results are recorded under: drivers are a part of `install`, span-start of `verify`, gateway and monitoring of `serve`."""
    scope: Scope = "provisioned"
    prepare: PrepareFunction | None = None
    """What it can do before it has the result of the phase before it, while hosts answer the probe."""
    applies: Condition | None = None
    """Whether the step has anything to do; always where this is None. Without work its modules are not imported."""
    in_batches: bool = False
    """Whether a run with batches takes the step once for each batch, and not once for all hosts."""

    def has_work(self, context: RunContext) -> bool:
        """Return whether the step may have anything to do, by what the run knows so far."""
        return self.applies is None or self.applies(context)


@frozen
class BackgroundStep:
    """Work that overlaps phases: it starts before one, with the result so far, and another waits for it."""

    name: str
    start: StartFunction
    before: str
    awaited_by: str


def _has_gateway(context: RunContext) -> bool:
    return any(host.is_gateway for host in context.inventory.hosts)


def _has_monitoring(context: RunContext) -> bool:
    return any(host.is_monitoring for host in context.inventory.hosts)


def _has_span(context: RunContext) -> bool:
    return any(host.span for host in context.inventory.hosts)


def wants_rules(context: RunContext) -> bool:
    """Return whether the inventory has hosts for which a firewall is set."""
    return _has_gateway(context) or _has_monitoring(context) or _has_span(context)


def _has_rules(context: RunContext) -> bool:
    """Return whether hosts may need rules, or have some of an earlier run."""
    found = [facts.installed for facts in context.result.facts.values()]
    return wants_rules(context) or any(installed and installed.firewall for installed in found)


PROBE = Step("probe", LazyFunction("probe:probe"), "probe", "all", prepare=LazyFunction("probe:prepare"))
PROBE_IN_FULL = replace(PROBE, run=partial(PROBE.run, in_full=True))
QUARANTINE = Step("quarantine", LazyFunction("quarantine:leave_out"), "plan", "all")
PLAN = Step("plan", LazyFunction("plan:plan"), "plan", prepare=LazyFunction("plan:prepare"))
CHANGES = Step("changes", LazyFunction("plan:compare"), "plan")
DRIVERS = Step("drivers", LazyFunction("drivers:apply"), "install", in_batches=True)
STAGE = Step("stage", LazyFunction("stage:stage"), "stage", prepare=LazyFunction("stage:prepare"), in_batches=True)
INSTALL = Step("install", LazyFunction("install:install"), "install", in_batches=True)
VERIFY = Step("verify", LazyFunction("verify:verify"), "verify", in_batches=True)
SPAN_START = Step("span-start", LazyFunction("span_start:prepare"), "verify", applies=_has_span, in_batches=True)
SERVE = Step("serve", LazyFunction("serve:serve"), "serve", in_batches=True)
GATEWAY = Step("gateway", LazyFunction("gateway:apply"), "serve", "all", applies=_has_gateway)
MONITORING = Step("monitoring", LazyFunction("monitoring:apply"), "serve", "all", applies=_has_monitoring)
FIREWALL = Step("firewall", LazyFunction("firewall:apply"), "serve", "all", applies=_has_rules)

STEPS = (
    PROBE,
    QUARANTINE,
    PLAN,
    CHANGES,
    DRIVERS,
    STAGE,
    INSTALL,
    VERIFY,
    SPAN_START,
    SERVE,
    GATEWAY,
    MONITORING,
    FIREWALL,
)

BACKGROUND = (
    BackgroundStep("packages", LazyFunction("background_packages:start"), before="stage", awaited_by="install"),
    BackgroundStep("upload", LazyFunction("background_upload:start"), before="stage", awaited_by="install"),
)


READING = frozenset({"probe", "plan", "changes", "traffic", "diagnose"})
"""Names of the steps that only read hosts. A command of these alone is a query, and no run; all others change or check hosts."""


def reads_only(steps: Sequence[Step]) -> bool:
    """Return whether steps only read hosts."""
    return all(step.name in READING for step in steps)


def steps_until(last: PhaseName) -> tuple[Step, ...]:
    """Return the steps of a run that ends with a phase."""
    wanted = PHASES[: PHASES.index(last) + 1]
    return tuple(step for step in STEPS if step.phase in wanted)


def background_of(steps: Sequence[Step]) -> tuple[BackgroundStep, ...]:
    """Return the background tasks of a run: those that a step of it waits for."""
    names = {step.name for step in steps}
    return tuple(task for task in BACKGROUND if task.awaited_by in names)


def prepare(context: RunContext, steps: Sequence[Step]) -> None:
    """Import what steps and their background tasks need, and let each do what it can without a result."""
    steps = [step for step in steps if step.has_work(context)]
    for function in (*(step.run for step in steps), *(task.start for task in background_of(steps))):
        if isinstance(function, LazyFunction):
            function.load()
    for step in steps:
        if step.prepare is not None:
            step.prepare(context)
