"""Files on their way to hosts: got by a host itself, handed on from host to host in the order of the relay; the controller sends the rest."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from provision.catalog.index.settings import read_settings, uv_variables
from provision.catalog.index.uv import read_uv_locations
from provision.core.errors import FirstlightError, SourceError, TransportError
from provision.core.models.inventory import Host
from provision.core.models.settings import Settings
from provision.core.models.staged import StagedFile
from provision.features.peers import access, program
from provision.features.peers.choice import Choice, Way, sample, way_of
from provision.features.peers.relay import Member, Relay
from provision.fleet.ssh.channel import Channel
from provision.fleet.ssh.dispatch import DEFAULT_LIMIT
from provision.fleet.ssh.session import Progress, Session
from provision.phases.stage.model_hub import endpoint
from provision.run.context import RunContext
from provision.run.results import PlannedHosts
from provision.run.sending import Sending, Sent, SentBytes


@contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    """Add the reason to a list where a source gives nothing."""
    try:
        yield
    except SourceError as error:
        problems.append(error.text)


class Distribution(Sending):
    """Transfers to all hosts of a step; `close` takes back all access.

    Args:
        choice: The hosts that hand files on.
    """

    def __init__(
        self,
        context: RunContext,
        planned: PlannedHosts,
        files: Mapping[str, Sequence[StagedFile]],
        choice: Choice,
    ) -> None:
        super().__init__(context, planned, files)
        self._choice = choice
        self._relay = Relay(
            [
                Member(
                    name,
                    access.network_of(context.host(name).connection),
                    {file.sha256: file.size for file in self._coming(name, "peers")},
                )
                for name in files
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
            return self._bring(host, progress, None, self._get(host, progress))
        try:
            own_bytes = self._get(host, progress)
            source = self._begin(host)
            sent = self._bring(host, progress, source, own_bytes)
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
        super().abandon(host)

    def close(self) -> None:
        """Take back all access, and put the hosts that others served into the inventory's order."""
        with self._changed:
            grants, self._grants = self._grants, {}
        if grants:
            with ThreadPoolExecutor(min(DEFAULT_LIMIT, len(grants))) as pool:
                list(pool.map(lambda channel: channel.close(), grants.values()))
        for name in grants:
            self._context.run.change("peer-access", host=name, changed=True, output="taken back")
        seen = self._context.state(SentBytes)
        served = {*seen.transfers.from_peers}
        names = tuple(host.name for host in self._context.inventory.hosts if host.name in served)
        seen.transfers = seen.transfers.model_copy(update={"from_peers": names})

    def _begin(self, host: Host) -> str | None:
        """Wait for the turn of a host; return its source, None for the controller."""
        with self._changed:
            while (turn := self._relay.begin(host.name)) is None:
                self._changed.wait()
                self._check(host)
            return turn.source

    def _check(self, host: Host) -> None:
        if host.name in self._abandoned:
            raise SourceError(f"the transfer to host {host.name} was broken off")

    def _fetch(self, host: Host, name: str, progress: Progress) -> int:
        """Get the files that another host has; return the bytes, and leave to the controller what did not come."""
        context, moved, refusal = self._context, 0, None

        def report(count: int) -> None:
            nonlocal moved
            moved += count
            progress(count)

        context.progress.note(host.name, f"gets its files from {name}")
        there = {file.sha256 for file in self._coming(name, "peers")}
        files = [file for file in self._coming(host.name, "peers") if file.sha256 in there]
        folder = self._planned.install_paths[host.name].incoming
        try:
            access.fetch(context.session(host), folder, files, self._peer(name), report)
        except SourceError as error:
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

    def _coming(self, name: str, way: Way) -> list[StagedFile]:
        """Return the files of a host that come to it in a way."""
        host = self._context.host(name)
        return [file for file in self._files[name] if way_of(host, file, self._choice) == way]

    def _get(self, host: Host, progress: Progress) -> int:
        """Let a host get files by itself, where its settings say so; return the bytes, and leave to the controller what did not come."""
        moved, problems = Counter[str](), list[str]()

        def files_of(way: Way) -> OwnFiles:
            def report(count: int) -> None:
                moved[way] += count
                progress(count)

            incoming = self._planned.install_paths[host.name].incoming
            files = self._coming(host.name, way)
            return OwnFiles(self._context.session(host), incoming, files, report, lambda _, why: problems.append(why))

        folder = str(host.settings.source_folder)
        fetched, copied = files_of("host"), files_of("path")
        try:
            # Each by itself: without its index a host may still have the folder.
            with collected(problems):
                if fetched.files:
                    self._context.progress.note(host.name, "fetches its files")
                    fetched.fetch(host.settings, self._defaults(host))
            with collected(problems):
                if copied.files:
                    self._context.progress.note(host.name, f"copies its files from {folder}")
                    copied.copy(folder, sample(copied.files, host.name))
        finally:
            # `send` reports what is there already
            progress(-moved.total())
            self._context.state(SentBytes).count(host=moved["host"], path=moved["path"])
        if problems:
            self._note_short(host, problems)
        return moved.total()

    def _note_short(self, host: Host, problems: Sequence[str]) -> None:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        self._context.progress.note(host.name, f"{problems[0]}{more}; the controller sends what is missing")
        self._context.run.event("own-source-short", host=host.name, phase="install", problems=problems)
        self._context.state(SentBytes).count(short=host.name)

    @cached_property
    def _open_indexes(self) -> tuple[str, ...]:
        """The controller's indexes that ask for no login: what a host asks where the inventory names none."""
        client = replace(self._context.options.client or read_settings(), extra_indexes=())
        indexes, _ = read_uv_locations(uv_variables(client, default_index=""))
        return tuple(url for url in indexes if url.startswith(("http://", "https://")) and "@" not in url)

    def _defaults(self, host: Host) -> Defaults:
        return Defaults(() if host.settings.source_index else self._open_indexes, endpoint())

    def _bring(self, host: Host, progress: Progress, source: str | None, own_bytes: int) -> Sent:
        started = time.monotonic()
        moved = self._fetch(host, source, progress) if source is not None else 0
        self._check(host)
        sent = super().send(host, progress)
        seconds = time.monotonic() - started
        if moved:
            self._context.state(SentBytes).count(peers=moved, to=host.name)
        if source is not None:
            self._compare(host, source, sent.bytes_sent)
        if own_bytes:
            self._compare_own(host, sent.bytes_sent)
        return replace(sent, seconds=seconds, peer=source, peer_bytes=moved, own_bytes=own_bytes)

    def _compare(self, host: Host, source: str, bytes_sent: int) -> None:
        """Ask a source no more when the controller had to send what the source has too."""
        there = {file.sha256 for file in self._coming(source, "peers")}
        handed_on = [file for file in self._coming(host.name, "peers") if file.sha256 in there]
        others = sum(file.size for file in self._files[host.name] if file not in handed_on)
        if bytes_sent <= others or host.name in self._context.state(SentBytes).transfers.refused:
            return
        text = f"host {source} sent wrong bytes to host {host.name}; the controller sent these files"
        with self._changed:
            self._relay.distrust(source)
        self._note_refusal(host, source, text)

    def _compare_own(self, host: Host, bytes_sent: int) -> None:
        """Note where the controller had to send what a host seemed to have got by itself."""
        others = sum(file.size for way in ("controller", "peers") for file in self._coming(host.name, way))
        if bytes_sent > others and host.name not in self._context.state(SentBytes).transfers.short:
            self._note_short(host, [f"the local source of host {host.name} gave wrong bytes"])

    def _note_refusal(self, host: Host, source: str, text: str) -> None:
        self._context.progress.note(host.name, text)
        self._context.run.event("peer-refused", host=host.name, phase="install", peer=source, text=text)
        self._context.state(SentBytes).count(refused=host.name)

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


PROGRAM = Path(__file__).parent / "onhost" / "source.py"
Lacks = Callable[[str, str], None]
"""Called with the hash of a file that did not come, and why."""


@dataclass(frozen=True)
class Defaults:
    """What a host asks where neither the inventory nor its own settings name anything."""

    indexes: tuple[str, ...]
    hub: str


@dataclass(frozen=True)
class OwnFiles:
    """Files that a host is to get, under their names in transfer. `Session.send` verifies them and sends what is missing."""

    session: Session
    incoming: str
    """Its incoming folder."""
    files: Sequence[StagedFile]
    progress: Callable[[int], None]
    """Called with the bytes that came since the last call."""
    lacks: Lacks

    def fetch(self, settings: Settings, defaults: Defaults) -> None:
        """Let the host fetch them from its indexes and hub.

        Raises:
            SourceError: The host cannot do that.
            StageError: The disk is too small, or the incoming folder cannot be used.
            TransportError: The connection broke.
        """
        own = {"indexes": settings.source_index, "hub": settings.source_hub}
        self._get("host", {**own, "default_indexes": defaults.indexes, "default_hub": defaults.hub})

    def copy(self, folder: str, sample: frozenset[str]) -> None:
        """Let the host copy them from a folder that it has; those of the sample, by hash, are checked there first, as far as it has them. Raises as `fetch`."""
        self._get("path", {"folder": folder, "sample": sorted(sample)})

    def _get(self, word: str, request: dict[str, Any]) -> None:
        program.get_files(
            self.session,
            self.incoming,
            self.files,
            program=PROGRAM,
            word=word,
            request=request,
            progress=self.progress,
            lacks=self.lacks,
        )
