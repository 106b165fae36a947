"""The bandwidth of the controller to its hosts."""

from __future__ import annotations

from dataclasses import dataclass, field

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
