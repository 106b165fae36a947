"""One run: the phases in order, their context and results, background tasks, recovery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.core.models.invocation import Invocation
from provision.pipeline.batches import Batching


@dataclass(frozen=True)
class CommandRequest:
    """A command with its options."""

    command: str
    inventory: Path
    limit: str | None
    overrides: Mapping[str, Any]
    logs: Path
    become_password: str | None = field(default=None, repr=False)
    refresh: bool = False
    """Whether to lock again what is locked already."""
    bundle: Path | None = None
    """The file that replaces the network."""
    trust: str | None = None
    """The key that must have signed the bundle: a file, or the key itself."""
    older_bundle: bool = False
    """Whether the bundle may be older than the last one of a host."""
    batching: Batching | None = None
    """How hosts are changed batch by batch; all at once when None."""
    verbose: bool = False
    """Whether every detail is printed."""
    as_json: bool = False
    """Whether the command prints one JSON document."""
    arguments: tuple[str, ...] = ()
    invocation: Invocation = field(default_factory=Invocation)
    """What a suggested command has to repeat."""
