"""Files on their way to hosts: the controller sends all that a host does not have, and counts the bytes by where they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from provision.core.formatting import format_bytes
from provision.core.models.inventory import Host
from provision.core.models.records import Transfers
from provision.core.models.staged import StagedFile
from provision.fleet.ssh.session import Progress
from provision.run.context import RunContext
from provision.run.results import PlannedHosts


class SentBytes:
    """Counts the bytes that hosts got. Thread-safe."""

    def __init__(self) -> None:
        self.transfers = Transfers()
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
        """Add to the bytes that hosts got: from the controller, from other hosts, from an index or a hub, and from a folder of their own.

        `to` is the host that got bytes from another one, `refused` one that no other served, `short` one whose own source gave less.
        """
        counts = {"controller": controller, "peers": peers, "host": host, "path": path}
        names = {"from_peers": to, "refused": refused, "short": short}
        with self._lock:
            seen = self.transfers
            sums = {kind: getattr(seen, kind) + count for kind, count in counts.items()}
            lists = {kind: tuple(dict.fromkeys((*getattr(seen, kind), name))) for kind, name in names.items() if name}
            self.transfers = seen.model_copy(update={**sums, **lists})


@dataclass(frozen=True)
class Sent:
    """How the files of a host came to it."""

    bytes_sent: int
    """By the controller."""
    seconds: float
    peer: str | None = None
    """The host that handed files on."""
    peer_bytes: int = 0
    own_bytes: int = 0
    """That the host got by itself."""

    def by_source(self) -> str:
        """Return the bytes by source, for the progress."""
        parts = {
            "of its own": self.own_bytes,
            f"from {self.peer}": self.peer_bytes,
            "from the controller": self.bytes_sent,
        }
        shown = ", ".join(f"{format_bytes(count)} {source}" for source, count in parts.items() if count)
        return shown or "nothing sent"


class Sending:
    """Transfers to all hosts of a step. `send` is called once for each host, from threads; `close` ends them."""

    def __init__(self, context: RunContext, planned: PlannedHosts, files: Mapping[str, Sequence[StagedFile]]) -> None:
        self._context, self._planned, self._files = context, planned, files

    def send(self, host: Host, progress: Progress) -> Sent:
        """Bring the files of a host there.

        Raises:
            FirstlightError: The host cannot be sent to.
        """
        folder = self._planned.install_paths[host.name].incoming
        report = self._context.session(host).send(self._files[host.name], folder, progress=progress)
        self._context.state(SentBytes).count(report.bytes_sent)
        return Sent(report.bytes_sent, report.seconds)

    def abandon(self, host: Host) -> None:
        """End the transfer to a host from another thread."""
        self._context.session(host).close()

    def close(self) -> None:
        """End what was set up for the transfers."""
