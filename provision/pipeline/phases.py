"""The order of a run: its phases, and the tasks that run in the background. Nothing else knows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from provision.core.models.phase_names import PHASES, PhaseName
from provision.pipeline import (
    background_packages,
    background_upload,
    conditions,
    drivers,
    firewall,
    gateway,
    install,
    monitoring,
    plan,
    probe,
    quarantine,
    serve,
    span_start,
    stage,
    verify,
)

if TYPE_CHECKING:
    from provision.pipeline.context import BackgroundTask, RunContext
    from provision.pipeline.results import ProbedHosts

    PhaseFunction = Callable[..., ProbedHosts]
    """Takes the RunContext and the result of the phase before; returns the phase's own result."""
    StartFunction = Callable[..., BackgroundTask | None]
    """Takes the same; returns None where there is nothing to do."""
    Condition = Callable[[RunContext], bool]

Scope = Literal["all", "provisioned"]
"""Hosts of a step: all, or without those that are a gateway or monitor, and nothing else."""


@dataclass(frozen=True)
class Step:
    """One entry of the order."""

    name: str
    run: PhaseFunction
    phase: PhaseName
    """The phase that its results are recorded under: drivers are a part of `install`, span-start of `verify`, gateway and monitoring of `serve`."""
    scope: Scope = "provisioned"
    applies: Condition | None = None
    """Whether the step has anything to do; always where this is None."""
    in_batches: bool = False
    """Whether a run with batches takes the step once for each batch, and not once for all hosts."""

    def has_work(self, context: RunContext) -> bool:
        """Return whether the step may have anything to do, by what the run knows so far."""
        return self.applies is None or self.applies(context)


@dataclass(frozen=True)
class BackgroundStep:
    """Work that overlaps phases: it starts before one, with the result so far, and another waits for it."""

    name: str
    start: StartFunction
    before: str
    awaited_by: str


PROBE = Step("probe", probe.probe, "probe", "all")
PROBE_IN_FULL = replace(PROBE, run=partial(PROBE.run, in_full=True))
QUARANTINE = Step("quarantine", quarantine.leave_out, "plan", "all")
PLAN = Step("plan", plan.plan, "plan")
CHANGES = Step("changes", plan.compare, "plan")
DRIVERS = Step("drivers", drivers.apply, "install", in_batches=True)
STAGE = Step("stage", stage.stage, "stage", in_batches=True)
INSTALL = Step("install", install.install, "install", in_batches=True)
VERIFY = Step("verify", verify.verify, "verify", in_batches=True)
SPAN_START = Step("span-start", span_start.prepare, "verify", applies=conditions.has_span, in_batches=True)
SERVE = Step("serve", serve.serve, "serve", in_batches=True)
GATEWAY = Step("gateway", gateway.apply, "serve", "all", applies=conditions.has_gateway)
MONITORING = Step("monitoring", monitoring.apply, "serve", "all", applies=conditions.has_monitoring)
FIREWALL = Step("firewall", firewall.apply, "serve", "all", applies=conditions.has_rules)

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
    BackgroundStep("packages", background_packages.start, before="stage", awaited_by="install"),
    BackgroundStep("upload", background_upload.start, before="stage", awaited_by="install"),
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
