"""One change that a run would make on a host."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from provision.core.models.base import Record

Part = Literal["driver", "packages", "python", "account", "environment", "model", "service", "tools", "files", "checks"]


class PlannedChange(Record):
    """One change that a run would make on a host."""

    part: Part
    sign: Literal["+", "~", "-", "?"]
    """New, changed, removed, or not known before the set is locked."""
    text: str
    send_bytes: int = Field(default=0, ge=0)
    """Bytes that are sent to the host for it."""
