"""The features of the product, found by the modules that their folders below `provision/features` have.

| module | what it does |
|---|---|
| `commands.py` | `add_to(app)` adds commands to the program |
| `order.py` | `STEPS`, steps of a run, each with the step of the core that it follows (`provision/pipeline/step.py`) |
| `hooks.py` | functions that the core calls at certain places: `rolled_back`, `earlier_failure`, `page_section` |

The core imports no feature: a copy of the product without the folder of one works.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

PACKAGE = "provision.features"


def modules(name: str) -> Iterator[ModuleType]:
    """Yield the module of this name of each feature that has one, by the names of the features."""
    folders = pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__)
    for feature in sorted(found.name for found in folders if found.ispkg):
        path = f"{PACKAGE}.{feature}.{name}"
        if importlib.util.find_spec(path) is not None:
            yield importlib.import_module(path)


def hooks(name: str) -> Iterator[Callable[..., Any]]:
    """Yield the function of this name of each feature that takes part there."""
    for module in modules("hooks"):
        if (hook := getattr(module, name, None)) is not None:
            yield hook
