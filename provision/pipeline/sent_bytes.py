"""The bytes that hosts got in a run, by where they came from."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

from provision.core.models.transfers import Transfers
from provision.fleet.sources.bandwidth import Bandwidth


class SentBytes:
    """Counts them. Thread-safe."""

    def __init__(self) -> None:
        self.transfers = Transfers()
        self.bandwidth = Bandwidth()
        self._lock = Lock()

    def count(self, controller: int, peers: int = 0, *, to: str | None = None, refused: str | None = None) -> None:
        """Add to the bytes that hosts were sent.

        Args:
            controller: Bytes that the controller sent.
            peers: Bytes that a host sent.
            to: The host that got them from another one.
            refused: A host that another one did not serve.
        """
        self._add({"controller": controller, "peers": peers}, {"from_peers": to if peers else None, "refused": refused})

    def count_own(self, host: int, path: int, *, short: str | None = None) -> None:
        """Add to the bytes that hosts got without the controller.

        Args:
            host: Bytes from an index or a hub.
            path: Bytes from a folder.
            short: A host whose source did not give all.
        """
        self._add({"host": host, "path": path}, {"short": short})

    def _add(self, counts: Mapping[str, int], hosts: Mapping[str, str | None]) -> None:
        with self._lock:
            seen = self.transfers
            sums = {name: getattr(seen, name) + count for name, count in counts.items()}
            lists = {
                name: tuple(dict.fromkeys(filter(None, (*getattr(seen, name), host)))) for name, host in hosts.items()
            }
            self.transfers = seen.model_copy(update={**sums, **lists})
