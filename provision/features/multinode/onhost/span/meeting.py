"""The hosts of a span meet before their servers start: all of them, with the same release, or none. Then they talk over links.

A link carries words, one a line, and a beat while there is nothing to say.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

RETRY_S = 1.0
TICK_S = 0.2
GO = "go"
OTHER = "other release"
BEAT_S = 1.0
SILENT_S = 5.0
"""A host that has said nothing for so long is gone: it beats every second."""
BEAT = "beat"
MOST_BYTES = 4096


class LostError(Exception):
    """The other host has hung up, or is silent."""


class Link:
    """One connection. `rank` is that of the other host."""

    def __init__(self, connection: socket.socket, rank: int) -> None:
        self.rank = rank
        self._connection = connection
        self._connection.settimeout(SILENT_S)
        self._rest = b""
        self._lost: str | None = None
        self._heard = self._said = time.monotonic()

    def hear(self) -> list[str]:
        """Return what the other host has said since, without waiting. Raises LostError where it is gone."""
        self._receive()
        *lines, self._rest = self._rest.split(b"\n")
        words = [word for word in (line.decode(errors="replace") for line in lines) if word != BEAT]
        if self._lost and not words:
            raise LostError(self._lost)
        return words

    def _receive(self) -> None:
        """Take what has arrived. The end of the connection counts after the words before it."""
        try:
            while self._lost is None and select.select([self._connection], [], [], 0)[0]:
                data = self._connection.recv(MOST_BYTES)
                self._rest += data
                self._heard = time.monotonic()
                if not data or len(self._rest) > MOST_BYTES:
                    self._lost = "has hung up"
        except OSError as problem:
            self._lost = f"has hung up: {problem}"
        if time.monotonic() - self._heard > SILENT_S:
            self._lost = f"has been silent for {SILENT_S:g} s"

    def say(self, word: str) -> None:
        """Send a word. Raises LostError where the other host is gone."""
        try:
            self._connection.sendall(word.encode() + b"\n")
        except OSError as problem:
            raise LostError(f"has hung up: {problem}") from problem
        self._said = time.monotonic()

    def beat(self) -> None:
        """Send a beat when it is time to. Raises LostError."""
        if time.monotonic() - self._said >= BEAT_S:
            self.say(BEAT)

    def is_alive(self) -> bool:
        """Return whether the other host is still there; what it said is dropped."""
        try:
            self.hear()
            self.beat()
        except LostError:
            return False
        return True

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@dataclass(frozen=True)
class Member:
    """One host of a span, as it sees itself."""

    rank: int
    addresses: tuple[str, ...]
    port: int
    agreement: str
    """Digest of what all hosts of the span have to have in common."""

    def named(self, rank: int) -> str:
        """Return how a host of the span is called in the log."""
        return f"host {rank} ({self.addresses[rank]})"


def meet(member: Member, is_stopped: Callable[[], bool]) -> list[Link]:
    """Wait for the other hosts. The head gets a link to each of them, and each of them one to the head; there is none when it was stopped."""
    return _gather(member, is_stopped) if member.rank == 0 else _join(member, is_stopped)


def note(text: str) -> None:
    """Write a line into the service's log."""
    sys.stderr.write(f"group: {text}\n")
    sys.stderr.flush()


def _gather(member: Member, is_stopped: Callable[[], bool]) -> list[Link]:
    address = member.addresses[0]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    links: dict[int, Link] = {}
    wanted = range(1, len(member.addresses))
    with socket.create_server((address, member.port), family=family) as listener:
        said = ""
        while not is_stopped():
            if select.select([listener], [], [], TICK_S)[0] and (link := _accept(listener, member)):
                if link.rank in links:
                    links[link.rank].close()
                links[link.rank] = link
            for rank in [rank for rank, link in links.items() if not link.is_alive()]:
                links.pop(rank).close()
            missing = [rank for rank in wanted if rank not in links]
            if not missing:
                found = [links[rank] for rank in wanted]
                with contextlib.suppress(LostError):  # seen by the next look at it
                    for link in found:
                        link.say(GO)
                return found
            text = f"waits for {', '.join(map(member.named, missing))}"
            if text != said:
                note(text)
                said = text
    return []


def _accept(listener: socket.socket, member: Member) -> Link | None:
    """Return a link to a host of the span that has the same release; every other connection is closed."""
    connection, (address, *_) = listener.accept()
    try:
        connection.settimeout(RETRY_S)
        rank, _, agreement = connection.recv(256).decode(errors="replace").strip().partition(" ")
        known = rank.isdigit() and 0 < int(rank) < len(member.addresses) and member.addresses[int(rank)] == address
        if known and agreement == member.agreement:
            return Link(connection, int(rank))
        if known:
            note(f"{member.named(int(rank))} has another release, and is not let in")
            connection.sendall(OTHER.encode() + b"\n")
    except OSError:
        pass
    connection.close()
    return None


def _join(member: Member, is_stopped: Callable[[], bool]) -> list[Link]:
    said = ""
    while not is_stopped():
        link = None
        try:
            connection = socket.create_connection(
                (member.addresses[0], member.port), RETRY_S, source_address=(member.addresses[member.rank], 0)
            )
            link = Link(connection, 0)
            link.say(f"{member.rank} {member.agreement}")
            if _is_let_in(link, is_stopped):
                return [link]
            text = f"{member.named(0)} has another release" if not is_stopped() else "is stopped"
        except (OSError, LostError) as problem:
            text = f"waits for {member.named(0)}: {problem}"
        if link is not None:
            link.close()
        if text != said:
            note(text)
            said = text
        time.sleep(RETRY_S)
    return []


def _is_let_in(link: Link, is_stopped: Callable[[], bool]) -> bool:
    """Wait until the head starts all servers; return False when it refuses this host, or the host is stopped."""
    while not is_stopped():
        for word in link.hear():
            if word in (GO, OTHER):
                return word == GO
        link.beat()
        time.sleep(TICK_S)
    return False
