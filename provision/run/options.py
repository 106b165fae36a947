"""What a command asks of its run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provision.catalog.index.settings import ClientSettings
from provision.core.models.inventory import Host


@dataclass(frozen=True)
class RunOptions:
    """The options of a command that its phases read."""

    command: str = ""
    """What the person typed after `./firstlight`."""
    limited: bool = False
    """Whether `--limit` may have left hosts of the inventory out."""
    find_gateways: Callable[[], Sequence[Host]] = tuple
    """Returns the gateways of the inventory, also those that `--limit` left out."""
    first: frozenset[str] = frozenset()
    """Hosts that failed in the run before: they start first, since they decide when this run ends."""
    refresh: bool = False
    """Whether `stage` asks for newer releases."""
    client: ClientSettings | None = None
    """Index settings that `stage` uses instead of the user's."""
