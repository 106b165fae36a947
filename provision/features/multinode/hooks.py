"""Where spans take part in the work of the core: the inventory, the command of a service, programs on hosts, checks, firewalls."""

from __future__ import annotations

from pathlib import Path

from provision.features.multinode.addresses import SpanAddresses
from provision.features.multinode.coordinator import try_together
from provision.features.multinode.member import PROGRAM, span_member
from provision.features.multinode.spans import with_spans
from provision.phases.serve.tools import SHARED, built

__all__ = ["host_programs", "neighbours", "span_member", "try_together", "with_spans"]

PACKAGE = Path(__file__).parent / "onhost" / "span"

neighbours = SpanAddresses


def host_programs(folder: Path) -> dict[str, Path]:
    """Return the program that starts a server with those of the other hosts, and ends it with them."""
    return {PROGRAM: built(folder / PROGRAM, PACKAGE, "span.main:main()", (SHARED,))}
