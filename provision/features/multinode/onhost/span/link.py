"""A connection between two hosts of a span: words, one a line, and a beat while there is nothing to say."""

from __future__ import annotations

import select
import socket
import time

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
