"""What the SSH libraries import and nobody uses here is left out.

Invoke, the library below Fabric and Paramiko, imports unittest.mock for its `MockContext`, and a copy of PyYAML for configuration files.
Both take two fifths of Fabric's import (38 of 95 ms; the first brings asyncio), and no host can be asked before it. Paramiko asks
importlib.metadata for its own version, which it names to servers: 0.01 s, most of it for the package `email`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


class _LatePyYaml(ModuleType):
    """PyYAML, imported when Invoke reads a file. Distributions that remove Invoke's copy give it PyYAML too."""

    def __getattr__(self, name: str) -> Any:
        import yaml

        return getattr(yaml, name)


class _NoMock(ModuleType):
    Mock = None


class _Versions(ModuleType):
    """The versions of installed distributions, by the names of their folders."""

    @staticmethod
    def version(name: str) -> str:
        for folder in sys.path:
            for found in Path(folder).glob(f"{name}-*.dist-info"):
                return found.name.removeprefix(f"{name}-").removesuffix(".dist-info")
        return "unknown"


@contextmanager
def stand_ins() -> Iterator[None]:
    """Hide them from the libraries, unless Invoke is imported already. Afterwards they are importable as before."""
    kinds = {"unittest.mock": _NoMock, "invoke.vendor.yaml": _LatePyYaml, "importlib.metadata": _Versions}
    added = [] if "invoke" in sys.modules else [name for name in kinds if name not in sys.modules]
    for name in added:
        sys.modules[name] = kinds[name](name)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
