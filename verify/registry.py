"""Finds the checks: every module under `checks/` that holds a CHECK. Adding a check is adding a file."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from verify import checks
from verify.records import Check

FAMILIES = {
    "devices": "What computes is there, and every layer of the system sees the same of it.",
    "libraries": "What is loaded is what was locked, from this environment, whole.",
    "kernels": "Elementary work is right.",
    "attention": "Each provider of attention is right against float64, and is the one that ran.",
    "operators": "What models compute between their products is right, compared with Python's own arithmetic.",
    "memory": "Attention takes as little memory as flash attention does.",
    "speed": "The device is as fast as its type is, and as the like ones beside it. On CPUs speeds are recorded, not judged.",
    "collectives": "What processes exchange arrives as it was sent.",
    "engine": "vLLM and its flash attention are the planned ones, and load.",
    "serving": "What serves on this host is what was planned, by unit, process, access, model and answer, and answers under load.",
}
"""What each family is about, in the order in which results are told."""


@cache
def all_checks() -> tuple[Check, ...]:
    """Every check, by family and then by id. Importing them imports no torch."""
    found: list[Check] = []
    for module in pkgutil.walk_packages(checks.__path__, f"{checks.__name__}."):
        if not module.ispkg:
            loaded = importlib.import_module(module.name)
            found += getattr(loaded, "CHECKS", None) or [loaded.CHECK]
    order = list(FAMILIES)
    return tuple(sorted(found, key=lambda check: (order.index(check.family), check.id)))


def select(names: tuple[str, ...]) -> frozenset[str]:
    """The ids that names stand for; a name is an id or a family. Raises KeyError with the first unknown name."""
    chosen: set[str] = set()
    for name in names:
        matching = {check.id for check in all_checks() if name in (check.id, check.family)}
        if not matching:
            raise KeyError(name)
        chosen |= matching
    return frozenset(chosen)
