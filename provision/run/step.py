"""What a run is made of: steps, which follow one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from provision.core.models.records import PhaseName

if TYPE_CHECKING:
    from provision.run.context import RunContext
    from provision.run.results import ProbedHosts

Scope = Literal["all", "provisioned"]
"""Hosts of a step: all, or without those that are a gateway or monitor, and nothing else."""


@dataclass(frozen=True)
class Step:
    """One entry of the order."""

    name: str
    run: Callable[..., ProbedHosts]
    """Takes the RunContext and the result of the phase before; returns the phase's own result."""
    phase: PhaseName
    """The phase that its results are recorded under: drivers are a part of `install`, gateway and monitoring of `serve`."""
    scope: Scope = "provisioned"
    applies: Callable[[RunContext], bool] = lambda _: True
    """Whether the step may have anything to do, by what the run knows so far."""
    in_batches: bool = False
    """Whether a run with batches takes the step once for each batch, and not once for all hosts."""
    reads_only: bool = False
    """Whether it only reads hosts. A command of such steps alone is a query, and no run; all others change or check hosts."""
    after: str | None = None
    """Of a feature's step: the step of the core that it follows."""
    rank: int = 0
    """Its place among the features that follow the same step: the lowest comes first."""
