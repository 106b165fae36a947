"""Registry of checks: the rows of data/checks.toml, and a check for each attention provider.

The check `FAMILY.NAME` is the function `run` of `verify/checks/FAMILY/NAME.py`. Most of these modules import torch, which may be
missing or broken: a module is imported when its check runs, in the process of the check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pkgutil import resolve_name
from typing import Any

from verify.records import Check
from verify.runner import equal_devices, preconditions
from verify.tables import table

FAMILIES = {
    "devices": "The devices are present, and every layer of the system sees the same ones.",
    "libraries": "The loaded libraries are the locked ones, complete, and from this environment.",
    "installed": "What is installed is what was recorded, and has no known security hole that applies to this host.",
    "kernels": "Basic computations give correct results.",
    "attention": "Each attention provider matches the float64 reference, and its own kernel ran.",
    "operators": "The operators that models run between matrix products match Python's arithmetic.",
    "memory": "Attention uses as little memory as flash attention does.",
    "speed": "The device is as fast as its type allows and as equal devices of the host. On CPUs speeds are recorded without a threshold.",
    "collectives": "Processes receive exactly the numbers that were sent.",
    "engine": "vLLM and its flash attention are the planned versions, and load.",
    "serving": "The running service matches the plan (unit, process, access, model, answers), answers under load, and can be started again; nothing on the host stops it or lets others in.",
}
"""Description of each family, in the order of the output."""


@cache
def all_checks() -> tuple[Check, ...]:
    """Return every check, ordered by family and id."""
    declared = (
        _declared(f"{family}.{name}", row) for family, rows in table("checks").items() for name, row in rows.items()
    )
    order = list(FAMILIES)
    return tuple(sorted([*declared, *_of_attention()], key=lambda check: (order.index(check.family), check.id)))


def _declared(id_: str, row: Mapping[str, Any]) -> Check:
    """Return the check of a row of data/checks.toml."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    values["preconditions"] = tuple(getattr(preconditions, name) for name in row.get("preconditions", ()))
    if "aggregate" in row:
        values["aggregate"] = getattr(equal_devices, row["aggregate"])
    return Check(id=id_, run=_imported(f"verify.checks.{id_}:run"), **values)


def _of_attention() -> Iterator[Check]:
    """Yield the check of each attention provider."""
    for name, row in table("attention")["provider"].items():
        unplanned = (partial(preconditions.planned_attention, row),)
        yield Check(
            id=f"attention.{name}",
            description=f"{row['title']} is as close to our float64 reference as plain torch is, and its own kernel ran.",
            run=partial(_imported("verify.checks.attention.providers:run"), name),
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
    """Return the ids of the named checks and families.

    Raises:
        KeyError: With the first unknown name.
    """
    chosen: set[str] = set()
    for name in names:
        matching = {check.id for check in all_checks() if name in (check.id, check.family)}
        if not matching:
            raise KeyError(name)
        chosen |= matching
    return frozenset(chosen)
