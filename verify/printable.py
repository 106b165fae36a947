"""Printed text: its width, and removal of terminal control sequences, because names, logs and answers of hosts are untrusted.

Uses Python 3.9 and the standard library, because controller and hosts share it.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable
from typing import TextIO

WIDTH = max(60, min(100, shutil.get_terminal_size((100, 24)).columns))
"""Width of printed text in columns: that of the terminal, but at most 100; 100 for a file or a pipe."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
_VERDICT = re.compile(r"^(GREEN|AMBER|RED)(?=:)", re.MULTILINE)
_COLOURS = {"GREEN": 32, "AMBER": 33, "RED": 31}
_UNCOMMON = re.compile(r"[^\n\t -~]")


def printable(text: str) -> str:
    """Replace every control or formatting character except newline and tab by a blank.

    Complete escape sequences are removed first, so that coloured logs stay readable; remains of nested ones are harmless
    without their control character. Bidirectional marks and surrogates count as formatting characters.
    """
    if _UNCOMMON.search(text) is None:
        return text
    return _UNCOMMON.sub(
        lambda found: " " if unicodedata.category(found[0])[0] in "CZ" else found[0], _ESCAPES.sub("", text)
    )


def wrapped(start: str, text: str) -> list[str]:
    """Wrap a text to `WIDTH` behind its first column; further lines are indented below it."""
    lines = textwrap.wrap(text, WIDTH - len(start), break_on_hyphens=False) or [""]
    return [start + lines[0], *(" " * len(start) + line for line in lines[1:])]


class GuardedStream(io.TextIOWrapper):
    """Text stream that writes only printable text; a terminal shows verdicts in colour, unless NO_COLOR is set.

    Other characters are escaped if the encoding is ASCII, because libraries would wrap such a stream.
    """

    def __init__(self, stream: TextIO, spell: Callable[[str], str] = str) -> None:
        self.unguarded = stream
        self._spell = spell
        self._is_ascii = codecs.lookup(stream.encoding).name == "ascii"
        self._is_coloured = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        super().__init__(
            stream.buffer,
            encoding="utf-8" if self._is_ascii else stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.isatty() or stream is sys.stderr,
        )

    def write(self, text: str) -> int:
        """Write the text without control sequences; return its length."""
        safe = self._spell(printable(text))
        if self._is_coloured:
            safe = _VERDICT.sub(lambda found: f"\x1b[{_COLOURS[found[0]]}m{found[0]}\x1b[0m", safe)
        super().write(safe.encode("ascii", "backslashreplace").decode() if self._is_ascii else safe)
        return len(text)


def guard_streams(spell: Callable[[str], str] = str) -> None:
    """Guard standard output and error of this program; call it once, at the start.

    Args:
        spell: What is done to each text before it is written.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:
            setattr(sys, name, GuardedStream(stream, spell))


def unguarded(stream: TextIO) -> TextIO:
    """Return the unguarded stream for colours and cursor movement; pass foreign text through `printable` first."""
    return stream.unguarded if isinstance(stream, GuardedStream) else stream
