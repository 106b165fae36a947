"""Files on their way to hosts: sent by the controller, or handed on from host to host in the order of the relay."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from provision.core.errors import FirstlightError, PeerError, TransportError
from provision.core.models.settings import Host
from provision.core.models.staged import StagedFile
from provision.fleet.peers import access
from provision.fleet.peers.relay import FIRST, Member, Relay
from provision.fleet.ssh.channel import Channel
from provision.fleet.ssh.dispatch import DEFAULT_LIMIT
from provision.fleet.ssh.session import Progress
from provision.pipeline.context import RunContext
from provision.pipeline.results import PlannedHosts

ENOUGH_HOSTS = 4
"""From so many hosts on, `auto` lets them hand on files: the controller then sends at most half of all bytes."""


@dataclass(frozen=True)
class Choice:
    """The hosts that hand files on to each other, and why these or none."""

    names: frozenset[str]
    reason: str


def choose(hosts: Sequence[Host]) -> Choice:
    """Choose the hosts that hand files on, from their settings and how they are reached.

    Args:
        hosts: All hosts that need files.
    """
    willing = [host for host in hosts if host.settings.source != "controller"]
    able = [host for host in willing if access.obstacle(host.connection) is None]
    asked = [host for host in able if host.settings.source == "peers"]
    if len(able) >= ENOUGH_HOSTS or (asked and len(able) > FIRST):
        names = frozenset(host.name for host in able)
        return Choice(
            names, f"{len(able)} hosts hand files on, the controller sends to the first {FIRST} of equal ones"
        )
    if not willing:
        return Choice(frozenset(), "firstlight_source is `controller`")
    if len(able) < len(willing):
        problem = next(filter(None, (access.obstacle(host.connection) for host in willing)))
        text = (
            f"too few hosts reach each other: of `{next(host.name for host in willing if host not in able)}`, {problem}"
        )
        return Choice(frozenset(), text)
    least = FIRST + 1 if asked else ENOUGH_HOSTS
    return Choice(frozenset(), f"hosts hand files on where at least {least} need some")


def in_order(context: RunContext, hosts: Sequence[Host]) -> list[Host]:
    """Return hosts in the order in which their transfers begin: those that failed in the run before come first."""
    return sorted(hosts, key=lambda host: host.name not in context.first)


@dataclass(frozen=True)
class Sent:
    """How the files of a host came to it."""

    bytes_sent: int
    """By the controller."""
    peer: str | None
    peer_bytes: int
    seconds: float


class Distribution:
    """Transfers to all hosts of a step. `send` is called once for each host, from threads; `close` takes back all access.

    Args:
        context: The run.
        planned: Facts and paths of the hosts.
        files: The files that each host needs.
        choice: The hosts that hand files on.
    """

    def __init__(
        self,
        context: RunContext,
        planned: PlannedHosts,
        files: Mapping[str, Sequence[StagedFile]],
        choice: Choice,
    ) -> None:
        self._context, self._planned, self._files = context, planned, files
        self._choice = choice
        self._relay = Relay(
            [
                Member(name, access.network_of(context.host(name).connection), {f.sha256: f.size for f in needed})
                for name, needed in files.items()
                if name in choice.names
            ]
        )
        self._changed = threading.Condition()
        self._abandoned: set[str] = set()
        self._grants: dict[str, Channel] = {}

    @cached_property
    def _key(self) -> access.RunKey:
        return access.make_key()

    def send(self, host: Host, progress: Progress) -> Sent:
        """Bring the files of a host there: from another host where one has them, all that is missing by the controller.

        Raises:
            FirstlightError: The host cannot be sent to.
        """
        if host.name not in self._choice.names:
            return self._send(host, progress, None)
        try:
            source = self._begin(host)
            sent = self._send(host, progress, source)
            serves = self._grant(host)
        except BaseException:
            with self._changed:
                self._relay.fail(host.name)
                self._changed.notify_all()
            raise
        with self._changed:
            self._relay.end(host.name, serves=serves)
            self._changed.notify_all()
        return sent

    def abandon(self, host: Host) -> None:
        """End the transfer to a host from another thread."""
        with self._changed:
            self._abandoned.add(host.name)
            self._changed.notify_all()
        self._context.session(host).close()

    def close(self) -> None:
        """Take back all access."""
        with self._changed:
            grants, self._grants = self._grants, {}
        if not grants:
            return
        with ThreadPoolExecutor(min(DEFAULT_LIMIT, len(grants))) as pool:
            list(pool.map(lambda channel: channel.close(), grants.values()))
        for name in grants:
            self._context.run.change("peer-access", host=name, changed=True, output="taken back")

    def _begin(self, host: Host) -> str | None:
        """Wait for the turn of a host; return its source, None for the controller."""
        with self._changed:
            while (turn := self._relay.begin(host.name)) is None:
                self._changed.wait()
                self._check(host)
            return turn.source

    def _check(self, host: Host) -> None:
        if host.name in self._abandoned:
            raise PeerError(f"the transfer to host {host.name} was broken off")

    def _fetch(self, host: Host, name: str, progress: Progress) -> int:
        """Get the files that another host has; return the bytes, and leave to the controller what did not come."""
        context, moved, refusal = self._context, 0, None

        def report(count: int) -> None:
            nonlocal moved
            moved += count
            progress(count)

        context.progress.note(host.name, f"gets its files from {name}")
        there = {file.sha256 for file in self._files[name]}
        files = [file for file in self._files[host.name] if file.sha256 in there]
        folder = self._planned.install_paths[host.name].incoming
        try:
            access.fetch(context.session(host), folder, files, self._peer(name), report)
        except PeerError as error:
            refusal = error
            self._note_refusal(host, name, f"{error.text}; the controller sends the rest")
        finally:
            # `send` reports what is there already
            progress(-moved)
        with self._changed:
            self._relay.received(host.name, refused=refusal is not None)
            self._changed.notify_all()
        return moved

    def _peer(self, name: str) -> access.Peer:
        host = self._context.host(name)
        user = self._planned.facts[name].user.name or str(host.connection.user)
        return access.Peer(name, host.connection, user, self._key)

    def _send(self, host: Host, progress: Progress, source: str | None) -> Sent:
        started = time.monotonic()
        moved = self._fetch(host, source, progress) if source is not None else 0
        self._check(host)
        folder = self._planned.install_paths[host.name].incoming
        report = self._context.session(host).send(self._files[host.name], folder, progress=progress)
        self._context.count_bytes(report.bytes_sent, moved, to=host.name)
        if source is not None:
            self._compare(host, source, report.bytes_sent)
        return Sent(report.bytes_sent, source, moved, time.monotonic() - started)

    def _compare(self, host: Host, source: str, bytes_sent: int) -> None:
        """Ask a source no more when the controller had to send what the source has too."""
        there = {file.sha256 for file in self._files[source]}
        own = sum(file.size for file in self._files[host.name] if file.sha256 not in there)
        if bytes_sent <= own or host.name in self._context.transfers.refused:
            return
        text = f"host {source} handed on wrong bytes to host {host.name}; the controller sent these files"
        with self._changed:
            self._relay.distrust(source)
        self._note_refusal(host, source, text)

    def _note_refusal(self, host: Host, source: str, text: str) -> None:
        self._context.progress.note(host.name, text)
        self._context.run.event("peer-refused", host=host.name, phase="install", peer=source, text=text)
        self._context.count_bytes(0, refused=host.name)

    def _grant(self, host: Host) -> bool:
        """Let other hosts read what a host has; return whether they may."""
        with self._changed:
            if not self._relay.is_wanted(host.name):
                return False
        folder = self._planned.install_paths[host.name].incoming
        try:
            channel = access.grant(self._context.session(host), folder, self._key)
        except TransportError:
            raise
        except FirstlightError as error:
            self._context.run.event("peer-refused", host=host.name, phase="install", text=error.text)
            return False
        with self._changed:
            self._grants[host.name] = channel
        self._context.run.change("peer-access", host=host.name, changed=True, output="a key of this run may read files")
        return True
