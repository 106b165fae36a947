"""Files on their way to hosts: the controller sends all that a host does not have."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from provision.core.formatting import format_bytes
from provision.core.models.inventory import Host
from provision.core.models.staged import StagedFile
from provision.fleet.ssh.session import Progress
from provision.run.context import RunContext
from provision.run.results import PlannedHosts
from provision.run.sent_bytes import SentBytes


def in_order(context: RunContext, hosts: Sequence[Host]) -> list[Host]:
    """Return hosts in the order in which their transfers begin: those that failed in the run before come first."""
    return sorted(hosts, key=lambda host: host.name not in context.options.first)


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
        return (
            ", ".join(f"{format_bytes(count)} {source}" for source, count in parts.items() if count) or "nothing sent"
        )


class Sending:
    """Transfers to all hosts of a step. `send` is called once for each host, from threads; `close` ends them.

    Args:
        context: The run.
        planned: Facts and paths of the hosts.
        files: The files that each host needs.
    """

    def __init__(self, context: RunContext, planned: PlannedHosts, files: Mapping[str, Sequence[StagedFile]]) -> None:
        self._context, self._planned, self._files = context, planned, files

    def send(self, host: Host, progress: Progress) -> Sent:
        """Bring the files of a host there.

        Raises:
            FirstlightError: The host cannot be sent to.
        """
        started = time.monotonic()
        folder = self._planned.install_paths[host.name].incoming
        report = self._context.session(host).send(self._files[host.name], folder, progress=progress)
        ended = time.monotonic()
        seen = self._context.state(SentBytes)
        seen.count(report.bytes_sent)
        seen.bandwidth.add(report.bytes_sent, ended - report.seconds, ended)
        return Sent(report.bytes_sent, ended - started)

    def abandon(self, host: Host) -> None:
        """End the transfer to a host from another thread."""
        self._context.session(host).close()

    def close(self) -> None:
        """End what was set up for the transfers."""
