"""Where the files of a run's hosts came from."""

from __future__ import annotations

from provision.core.models.base import Record


class Transfers(Record):
    """Where the files of a run's hosts came from, in bytes."""

    controller: int = 0
    peers: int = 0
    host: int = 0
    """Fetched by hosts themselves, from an index or a hub."""
    path: int = 0
    """Copied by hosts from a folder that they have."""
    from_peers: tuple[str, ...] = ()
    """Hosts that got files from another host."""
    short: tuple[str, ...] = ()
    """Hosts that the controller sent files to which their own source did not give."""
    refused: tuple[str, ...] = ()
    """Hosts that the controller sent files to, since another host did not hand them on."""
    bytes_s: float | None = None
    """Bytes a second that the controller sent to all hosts together before the choice was made; None where that is unknown."""
    reason: str = ""
    """Why hosts hand files on, or do not."""
