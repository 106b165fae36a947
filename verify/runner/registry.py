"""Registry of checks: the rows of data/checks.toml, and a check for each attention provider.

The check `FAMILY.NAME` is the function `run` of `verify/checks/FAMILY/NAME.py`, or FILE:FUNCTION of that folder, as `run` of its row says. Most of these modules import torch, which may be
missing or broken: a module is imported when its check runs, in the process of the check.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pkgutil import resolve_name
from typing import Any

from verify.records import LEVELS, Check, Level
from verify.runner import equal_devices, preconditions
from verify.runner.execution import OVERHEAD_S
from verify.tables import table

AT_ONCE = 2
"""Number of checks that run in parallel on the smallest host."""


@cache
def all_checks() -> tuple[Check, ...]:
    """Return every check, ordered by family and id."""
    declared = (
        _declared(f"{family}.{name}", row) for family, rows in table("checks").items() for name, row in rows.items()
    )
    order = [family["name"] for family in table("families")["family"]]
    return tuple(sorted([*declared, *_of_attention()], key=lambda check: (order.index(check.family), check.id)))


def _declared(id_: str, row: Mapping[str, Any]) -> Check:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    values["preconditions"] = tuple(getattr(preconditions, name) for name in row.get("preconditions", ()))
    if "aggregate" in row:
        values["aggregate"] = getattr(equal_devices, row["aggregate"])
    family, _, name = id_.partition(".")
    values["run"] = _imported(f"verify.checks.{family}.{row.get('run', f'{name}:run')}")
    return Check(id=id_, **values)


def _of_attention() -> Iterator[Check]:
    for name, row in table("attention")["provider"].items():
        unplanned = (partial(preconditions.planned_attention, row),)
        yield Check(
            id=f"attention.{name}",
            description=f"{row['title']} is as close to a float64 reference as plain torch is, and its own kernel ran.",
            run=partial(_imported("verify.attention.check:run"), name),
            level=row["level"],
            requires=("kernels.vector_add",),
            preconditions=unplanned if row["level"] == "standard" else (),
            each_device=True,
            faults=("wrong-result", "wrong-kernel"),
            deadline_s=row.get("deadline_s", 180.0),
        )


def _imported(reference: str) -> Callable[..., Any]:
    """Return a function that imports `MODULE:FUNCTION` when it is called, and calls it."""

    def call(*arguments: Any) -> Any:
        return resolve_name(reference)(*arguments)

    return call


def select(names: tuple[str, ...]) -> frozenset[str]:
    """Return the ids of the named checks and families. Raises KeyError with the first unknown name."""
    chosen: set[str] = set()
    for name in names:
        matching = {check.id for check in all_checks() if name in (check.id, check.family)}
        if not matching:
            raise KeyError(name)
        chosen |= matching
    return frozenset(chosen)


def run_limit_s(level: Level, devices: int) -> float:
    """Return the seconds after which a run has ended even if every check uses its whole deadline."""
    at_once = alone = longest = 0.0
    for check in all_checks():
        if LEVELS.index(check.level) <= LEVELS.index(level):
            seconds = check.deadline_s * (max(devices, 1) if check.each_device else 1)
            longest = max(longest, check.deadline_s)
            alone += seconds if check.exclusive else 0.0
            at_once += 0.0 if check.exclusive else seconds
    return OVERHEAD_S + at_once / AT_ONCE + longest + alone
