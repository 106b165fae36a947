"""Files on their way to hosts: got by a host itself, handed on from host to host in the order of the relay; the controller sends the rest."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

from provision.catalog.index.settings import read_settings
from provision.catalog.index.uv import read_uv_locations
from provision.core.errors import FirstlightError, NoCopyError, SourceError, TransportError
from provision.core.models.inventory import Host
from provision.core.models.staged import StagedFile
from provision.features.peers import access
from provision.features.peers.choice import Choice, Way, way_of
from provision.features.peers.relay import Member, Relay
from provision.fleet.ssh.dispatch import DEFAULT_LIMIT
from provision.fleet.ssh.process import Channel
from provision.fleet.ssh.session import Progress
from provision.phases.stage.model_hub import endpoint
from provision.run.context import RunContext
from provision.run.results import PlannedHosts
from provision.run.sending import Sending, Sent, SentBytes


class Distribution(Sending):
    """Transfers to all hosts of a step, some of which hand files on by choice; `close` takes back all access."""

    def __init__(
        self, context: RunContext, planned: PlannedHosts, files: Mapping[str, Sequence[StagedFile]], choice: Choice
    ) -> None:
        super().__init__(context, planned, files)
        self._choice = choice
        self._relay = Relay(
            [
                Member(
                    name,
                    access.network_of(context.host(name).connection),
                    frozenset(file.sha256 for file in self._coming(name, "peers")),
                )
                for name in files
                if name in choice.names
            ]
        )
        self._changed = threading.Condition()
        self._abandoned: set[str] = set()
        self._lacks: dict[str, dict[str, str]] = {}
        """By host and SHA-256: why files did not come from the host's own source."""
        self._grants: dict[str, Channel] = {}

    @cached_property
    def _key(self) -> access.RunKey:
        return access.make_key()

    def send(self, host: Host, progress: Progress) -> Sent:
        """Bring the files of a host there: from another host where one has them, all that is missing by the controller. Raises FirstlightError."""
        if host.name not in self._choice.names:
            return self._bring(host, progress, None, self._get(host, progress))
        try:
            own_bytes = self._get(host, progress)
            with self._changed:
                while (turn := self._relay.begin(host.name)) is None:
                    self._changed.wait()
                    self._check(host)
            sent = self._bring(host, progress, turn.source, own_bytes)
            serves = self._grant(host)
        except BaseException:
            with self._change() as relay:
                relay.fail(host.name)
            raise
        with self._change() as relay:
            relay.end(host.name, serves=serves)
        return sent

    def abandon(self, host: Host) -> None:
        """End the transfer to a host from another thread."""
        with self._change():
            self._abandoned.add(host.name)
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

    @contextmanager
    def _change(self) -> Iterator[Relay]:
        """Let hosts that wait for their turn look again after a change."""
        with self._changed:
            yield self._relay
            self._changed.notify_all()

    def _check(self, host: Host) -> None:
        if host.name in self._abandoned:
            raise SourceError(f"the transfer to host {host.name} was broken off")

    def _fetch(self, host: Host, name: str, progress: Progress) -> int:
        """Get the files that another host has; return the bytes, and leave to the controller what did not come."""
        context, moved, is_refused = self._context, 0, False

        def report(count: int) -> None:
            nonlocal moved
            moved += count
            progress(count)

        context.progress.note(host.name, f"gets its files from {name}")
        folder, connection = self._planned.install_paths[host.name].incoming, context.host(name).connection
        user = self._planned.facts[name].user.name or str(connection.user)
        peer = access.Peer(name, connection, user, self._key)
        try:
            access.fetch(context.session(host), folder, self._coming(host.name, "peers"), peer, report)
        except SourceError as error:
            is_refused = True
            self._note_refusal(host, name, f"{error.text}; the controller sends the rest")
        finally:
            # `send` reports what is there already
            progress(-moved)
        with self._change() as relay:
            relay.received(host.name, refused=is_refused)
        return moved

    def _coming(self, name: str, way: Way) -> list[StagedFile]:
        """Return the files of a host that come to it in a way."""
        host = self._context.host(name)
        return [file for file in self._files[name] if way_of(host, file, self._choice) == way]

    def _get(self, host: Host, progress: Progress) -> int:
        """Let a host get files by itself, where its settings say so; return the bytes, and leave to the controller what did not come."""
        incoming, folder = self._planned.install_paths[host.name].incoming, str(host.settings.source_folder)
        moved = Counter[str]()
        lacks = self._lacks[host.name] = {}

        def get(way: Way, files: Sequence[StagedFile], doing: str, request: dict[str, Any]) -> None:
            def report(count: int) -> None:
                moved[way] += count
                progress(count)

            self._context.progress.note(host.name, doing)
            session = self._context.session(host)
            try:
                access.get_files(session, incoming, files, word=way, request=request, progress=report, lacks=lacks)
            except SourceError as error:
                # Of all that may be missing now.
                lacks.update({file.sha256: error.text for file in files if file.sha256 not in lacks})

        try:
            if files := self._coming(host.name, "host"):
                get("host", files, "fetches its files", self._places(host))
            # By itself: without its index a host may still have the folder.
            if files := self._coming(host.name, "path"):
                get("path", files, f"copies its files from {folder}", {"folder": folder})
        finally:
            # `send` reports what is there already
            progress(-moved.total())
            self._context.state(SentBytes).count(host=moved["host"], path=moved["path"])
        if lacks:
            self._note_short(host, [*dict.fromkeys(lacks.values())])
        return moved.total()

    def _note_short(self, host: Host, problems: Sequence[str]) -> None:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        self._context.progress.note(host.name, f"{problems[0]}{more}; the controller sends what is missing")
        self._context.run.event("own-source-short", host=host.name, phase="install", problems=problems)
        self._context.state(SentBytes).count(short=host.name)

    def _places(self, host: Host) -> dict[str, Any]:
        """Return the indexes and the hub of a host; where the inventory names no index, those of the controller that ask for no login."""
        indexes = [*host.settings.source_index]
        if not indexes:
            known, _ = read_uv_locations(self._context.options.client or read_settings())
            indexes = [url for url in known if url.startswith(("http://", "https://")) and "@" not in url]
        return {"indexes": indexes, "hub": host.settings.source_hub, "default_hub": endpoint()}

    def _bring(self, host: Host, progress: Progress, source: str | None, own_bytes: int) -> Sent:
        started = time.monotonic()
        moved = self._fetch(host, source, progress) if source is not None else 0
        self._check(host)
        try:
            sent = super().send(host, progress)
        except NoCopyError as error:
            lacks = self._lacks.get(host.name, {})
            reason = next((lacks[sha256] for sha256 in error.files.values() if sha256 in lacks), None)
            raise NoCopyError(host.name, error.files, reason) from None
        seconds = time.monotonic() - started
        if moved:
            self._context.state(SentBytes).count(peers=moved, to=host.name)
        if source is not None:
            self._compare(host, source, sent.bytes_sent)
        others = sum(file.size for way in ("controller", "peers") for file in self._coming(host.name, way))
        if own_bytes and sent.bytes_sent > others and host.name not in self._context.state(SentBytes).transfers.short:
            # The controller had to send what the host seemed to have got by itself.
            self._note_short(host, [f"the local source of host {host.name} gave wrong bytes"])
        return replace(sent, seconds=seconds, peer=source, peer_bytes=moved, own_bytes=own_bytes)

    def _compare(self, host: Host, source: str, bytes_sent: int) -> None:
        """Ask a source no more when the controller had to send what the source has too."""
        others = sum(file.size for way in ("controller", "host", "path") for file in self._coming(host.name, way))
        if bytes_sent <= others or host.name in self._context.state(SentBytes).transfers.refused:
            return
        text = f"host {source} sent wrong bytes to host {host.name}; the controller sent these files"
        with self._changed:
            self._relay.distrust(source)
        self._note_refusal(host, source, text)

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
