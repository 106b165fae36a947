"""Hosts that somebody took back to another release after a rollout had changed them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provision.features.rollout.model import Rollout


@dataclass(frozen=True)
class Move:
    """What a run of `rollback` did to one host; None where a release is not known."""

    source: str | None
    """Digest of the release that the host served before the run."""
    target: str | None
    """Digest of the release that it serves since."""


def with_moves(rollout: Rollout, moves: Mapping[str, Move], run: str) -> Rollout:
    """Return the rollout with hosts marked that a run took away from the release that the rollout gave them, or back to it.

    A host that the rollout could not take back itself is marked when it has its earlier release.

    A release is named by its content, so one that served before the run shows that the host is the one of the rollout, and that
    nothing else has changed it in between.

    Args:
        rollout: The rollout.
        moves: What the run did, by host; only hosts on which it succeeded.
        run: The run.
    """
    for host in rollout.hosts:
        move = moves.get(host.name)
        if host.state == "failed" and move is not None and host.before is not None and move.target == host.before:
            rollout = rollout.with_host(host.name, state="returned", returned_to=host.before, run=run)
            continue
        serves = host.after if host.state == "updated" else host.returned_to
        if move is not None and serves is not None and move.source == serves and move.target not in (None, serves):
            is_back = move.target == host.after
            rollout = rollout.with_host(
                host.name,
                state="updated" if is_back else "returned",
                returned_to=None if is_back else move.target,
                run=run,
            )
    return rollout
