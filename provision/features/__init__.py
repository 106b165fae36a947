"""Features: what the core works without, one folder each.

The core imports none of them. It finds them by the modules that their folders have (docs/architecture.md):
`commands.py` with `add_to(app)` adds commands to the program.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from types import ModuleType


def modules(name: str) -> Iterator[ModuleType]:
    """Yield the module of this name of each feature that has one, by the names of the features."""
    for feature in sorted(found.name for found in pkgutil.iter_modules(__path__) if found.ispkg):
        path = f"{__name__}.{feature}.{name}"
        if importlib.util.find_spec(path) is not None:
            yield importlib.import_module(path)
