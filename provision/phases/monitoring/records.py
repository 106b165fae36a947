"""What the files of monitoring are made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Job = Literal["vllm", "node", "cards", "gateway", "probe"]
JOBS: tuple[Job, ...] = ("vllm", "node", "cards", "gateway", "probe")
"""Kinds of targets, by which Prometheus labels their metrics."""


@dataclass(frozen=True)
class Target:
    """One address that Prometheus reads."""

    job: Job
    host: str
    """Name in the inventory."""
    address: str
    """Address and port, as the monitoring host reaches them; of `probe` a URL."""
    model: str | None = None
    """Name of the model in the API; None where none is served there."""
    key: str | None = field(default=None, repr=False)
    """API key that it asks for."""
