"""The order of the phases. Nothing else knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.core.models.invocation import Invocation


@dataclass(frozen=True)
class Request:
    """A command as the person gave it."""

    command: str
    inventory: Path
    limit: str | None
    overrides: Mapping[str, Any]
    logs: Path
    become_password: str | None = field(default=None, repr=False)
    refresh: bool = False
    """Whether to lock anew what was locked before."""
    bundle: Path | None = None
    """Where everything comes from instead of a network."""
    trust: str | None = None
    """The key that must have signed the bundle: a file, or the key itself."""
    arguments: tuple[str, ...] = ()
    invocation: Invocation = field(default_factory=Invocation)
    """What a suggested command has to repeat."""
