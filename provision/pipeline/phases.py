"""The steps of a whole run, in their order, and the part of it that a command takes."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from typing import cast

from provision.core.models.records import PHASES, PhaseName
from provision.pipeline.context import RunContext

Act = Callable[[RunContext], None]
Step = tuple[PhaseName, Act]


class LazyStep:
    """A step whose module is imported when it is taken, or before, while hosts answer the probe."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load(self) -> Act:
        """The step itself."""
        return cast(Act, pkgutil.resolve_name(f"provision.pipeline.{self._name}"))

    def __call__(self, context: RunContext) -> None:
        """Take the step."""
        self.load()(context)


PROBE: Step = ("probe", LazyStep("probe:probe"))
PLAN: Step = ("plan", LazyStep("plan:plan"))
DRIVERS: Step = ("install", LazyStep("drivers:bring"))

STEPS: tuple[Step, ...] = (
    PROBE,
    PLAN,
    DRIVERS,
    ("stage", LazyStep("background_packages:ask_sources")),
    ("install", LazyStep("background_packages:begin")),
    ("install", LazyStep("background_upload:begin")),
    ("stage", LazyStep("stage:stage")),
    ("install", LazyStep("install:settle")),
    ("install", LazyStep("install:install")),
    ("verify", LazyStep("verify:verify")),
    ("serve", LazyStep("serve:serve")),
)


def steps_until(last: PhaseName) -> tuple[Step, ...]:
    """The steps of a run that ends with one of the phases."""
    wanted = PHASES[: PHASES.index(last) + 1]
    return tuple(step for step in STEPS if step[0] in wanted)


def load(steps: Sequence[Step]) -> None:
    """Import what steps need."""
    for _, act in steps:
        if isinstance(act, LazyStep):
            act.load()
