"""The hosts that a playbook runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from provision.core.models.inventory import Host

Progress = Callable[[str, str], None]
"""Called with host and current task, from the thread that called `install`."""


@dataclass(frozen=True)
class Target:
    """A host and the variables that the roles read (docs/reference/playbooks.md)."""

    host: Host
    variables: Mapping[str, Any] = field(default_factory=dict)
