"""The bytes that hosts got in a run, by where they came from, and the bandwidth of the controller."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

from provision.core.models.records import Transfers

ENOUGH_BYTES = 8 << 20
"""Shorter transfers say nothing about the bandwidth: connections and checks take most of their time."""


@dataclass
class Bandwidth:
    """What the controller sent to hosts in this run, and when."""

    _sent: int = 0
    _times: list[tuple[float, float]] = field(default_factory=list)

    def add(self, sent: int, began: float, ended: float) -> None:
        """Note a transfer: its bytes, and its beginning and end in seconds of one clock."""
        self._sent += sent
        self._times.append((began, ended))

    @property
    def bytes_s(self) -> float | None:
        """Bytes a second of all transfers together, while there was any; None where too little was sent."""
        seconds, reached = 0.0, float("-inf")
        for began, ended in sorted(self._times):
            seconds += max(0.0, ended - max(began, reached))
            reached = max(reached, ended)
        return self._sent / seconds if self._sent >= ENOUGH_BYTES and seconds > 0 else None


class SentBytes:
    """Counts the bytes that hosts got. Thread-safe."""

    def __init__(self) -> None:
        self.transfers = Transfers()
        self.bandwidth = Bandwidth()
        self._lock = Lock()

    def count(
        self,
        controller: int = 0,
        *,
        peers: int = 0,
        host: int = 0,
        path: int = 0,
        to: str | None = None,
        refused: str | None = None,
        short: str | None = None,
    ) -> None:
        """Add to the bytes that hosts got.

        Args:
            controller: Bytes that the controller sent.
            peers: Bytes that a host sent.
            host: Bytes that a host fetched from an index or a hub.
            path: Bytes that a host copied from a folder.
            to: The host that got bytes from another one.
            refused: A host that another one did not serve.
            short: A host whose own source did not give all.
        """
        counts = {"controller": controller, "peers": peers, "host": host, "path": path}
        names = {"from_peers": to, "refused": refused, "short": short}
        with self._lock:
            seen = self.transfers
            sums = {kind: getattr(seen, kind) + count for kind, count in counts.items()}
            lists = {kind: tuple(dict.fromkeys((*getattr(seen, kind), name))) for kind, name in names.items() if name}
            self.transfers = seen.model_copy(update={**sums, **lists})
