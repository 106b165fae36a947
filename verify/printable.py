"""What is printed never commands the terminal: names, logs and answers of hosts are anybody's text.

Python 3.9 and the standard library: the controller's commands and what runs on a host share it.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
import unicodedata
from typing import TextIO

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
_UNCOMMON = re.compile(r"[^\n\t -~]")


def printable(text: str) -> str:
    """Text that no terminal takes for a command: lines and tabs stay, every other control or formatting character is a blank.

    Whole escape sequences go first, so that a coloured log stays readable; what an inner one leaves of an outer one is
    harmless without its control character. Bidirectional marks and surrogates count as formatting characters.
    """
    if _UNCOMMON.search(text) is None:
        return text
    return _UNCOMMON.sub(_seen, _ESCAPES.sub("", text))


def _seen(found: re.Match[str]) -> str:
    return found[0] if unicodedata.category(found[0])[0] not in "CZ" else " "


class GuardedStream(io.TextIOWrapper):
    """A stream of text that writes only what is printable.

    One whose encoding is ASCII gets other characters escaped: libraries would put a wrapper of their own around it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.unguarded = stream
        self._is_ascii = codecs.lookup(stream.encoding).name == "ascii"
        super().__init__(
            stream.buffer,
            encoding="utf-8" if self._is_ascii else stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.isatty() or stream is sys.stderr,
        )

    def write(self, text: str) -> int:
        """Write the text without what commands a terminal; returns its length."""
        safe = printable(text)
        super().write(safe.encode("ascii", "backslashreplace").decode() if self._is_ascii else safe)
        return len(text)


def guard_streams() -> None:
    """Let this program's standard output and error pass only what is printable, whoever writes to them; called once, at its start."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:
            setattr(sys, name, GuardedStream(stream))


def unguarded(stream: TextIO) -> TextIO:
    """The stream itself, for what this program draws: its colours, its cursor. Texts of others pass `printable` before."""
    return stream.unguarded if isinstance(stream, GuardedStream) else stream
