"""Registry of checks: every module below `checks/` that defines CHECK."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from verify import checks
from verify.records import Check

FAMILIES = {
    "devices": "The devices are present, and every layer of the system sees the same ones.",
    "libraries": "The loaded libraries are the locked ones, complete, and from this environment.",
    "installed": "What is installed has no known security hole that applies to this host.",
    "kernels": "Basic computations give correct results.",
    "attention": "Each attention provider matches the float64 reference, and its own kernel ran.",
    "operators": "The operators that models run between matrix products match Python's arithmetic.",
    "memory": "Attention uses as little memory as flash attention does.",
    "speed": "The device is as fast as its type allows and as equal devices of the host. On CPUs speeds are recorded without a threshold.",
    "collectives": "Processes receive exactly the numbers that were sent.",
    "engine": "vLLM and its flash attention are the planned versions, and load.",
    "serving": "The running service matches the plan (unit, process, access, model, answers), and answers under load.",
}
"""Description of each family, in the order of the output."""


@cache
def all_checks() -> tuple[Check, ...]:
    """Return every check, ordered by family and id. Importing them does not import torch."""
    found: list[Check] = []
    for module in pkgutil.walk_packages(checks.__path__, f"{checks.__name__}."):
        if not module.ispkg:
            loaded = importlib.import_module(module.name)
            found += getattr(loaded, "CHECKS", None) or [loaded.CHECK]
    order = list(FAMILIES)
    return tuple(sorted(found, key=lambda check: (order.index(check.family), check.id)))


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
