"""The steps of a whole walk, in their order, and the part of it that a command takes."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from typing import cast

from provision.core.models.records import ROOMS, RoomName
from provision.pipeline.context import Walk

Act = Callable[[Walk], None]
Step = tuple[RoomName, Act]


class Late:
    """A step whose module is imported when it is taken, or before, while hosts answer the probe."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load(self) -> Act:
        """The step itself."""
        return cast(Act, pkgutil.resolve_name(f"provision.pipeline.{self._name}"))

    def __call__(self, walk: Walk) -> None:
        """Take the step."""
        self.load()(walk)


PROBE: Step = ("probe", Late("probe:probe"))
PLAN: Step = ("plan", Late("plan:plan"))
DRIVERS: Step = ("install", Late("drivers:bring"))

STEPS: tuple[Step, ...] = (
    PROBE,
    PLAN,
    DRIVERS,
    ("stage", Late("background_packages:ask_sources")),
    ("install", Late("background_packages:begin")),
    ("install", Late("background_upload:begin")),
    ("stage", Late("stage:stage")),
    ("install", Late("install:settle")),
    ("install", Late("install:install")),
    ("verify", Late("verify:verify")),
    ("serve", Late("serve:serve")),
)


def steps_until(last: RoomName) -> tuple[Step, ...]:
    """The steps of a walk that ends with one of the rooms."""
    wanted = ROOMS[: ROOMS.index(last) + 1]
    return tuple(step for step in STEPS if step[0] in wanted)


def load(steps: Sequence[Step]) -> None:
    """Import what steps need."""
    for _, act in steps:
        if isinstance(act, Late):
            act.load()
