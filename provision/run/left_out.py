"""Hosts that runs leave out until somebody has seen to them: features say which, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.core import features
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host


@dataclass(frozen=True)
class LeftOut:
    """Why runs leave a host out."""

    reason: str
    hint: str
    """What brings it back."""
    record: Mapping[str, Any]
    """What is kept of it, as `status --json` prints it."""


def left_out(logs: Path, host: Host, facts: HostFacts | None = None) -> LeftOut | None:
    """Return why runs leave a host out; None where they do not.

    Args:
        logs: Folder of the runs, with what this controller keeps of hosts.
        host: The host.
        facts: What the probe found there; without them, only what this controller keeps counts.
    """
    found = (hook(logs, host, facts) for hook in features.hooks("left_out"))
    return next(filter(None, found), None)
