"""Decoding of logs to plain lines: gzip, encodings, colours, line ends, progress bars and JSON records.

Firstlight's own output is left out: a plan and a summary name causes, but are no sign of one.
"""

import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

BLOCK_BYTES = 1 << 20
LINE_BYTES = 2048
"""A pattern sees at most this much of a line at once."""
JSON_BYTES = 1 << 16
"""A longer JSON record is treated as plain text."""

GZIP, ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
NOT_TEXT = b"\0\xfe\xff"
"""Bytes that no text in UTF-8 has. Without them ASCII in UTF-16, which Windows shells write, is plain ASCII."""
_ANSI = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_ANSI_TEXT = re.compile(_ANSI.pattern.decode())
_PREFIX = re.compile(r"^[\w.-]{1,80}-\d{1,4} {1,40}\| ")
"""The name of a service that docker compose puts before each line."""
HEAD_BYTES = 1 << 16
"""A plan or a summary begins within this many bytes of a text that holds one."""
MAX_BYTES = 1 << 22
_SUMMARY = re.compile(rb"^(?:RED|AMBER|GREEN): .*\n(?:\S.*\n)?  run \d{8}T\d{6}Z", re.MULTILINE)
_PLAN = re.compile(
    rb"^  (?:refused +no (?:Stack|combination of versions) fits\n|vLLM +\S.*\n  torch +\S)", re.MULTILINE
)
_QUOTED = re.compile(rb"\s+\| ")
_ERROR = b"error: "


class Readable(Protocol):
    """Bytes that can be read."""

    def read(self, size: int, /) -> bytes: ...


class _UntilDamage:
    """A decompressing stream that ends where its file is truncated or damaged; the text before counts."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return b""


@contextmanager
def open_log(path: str) -> Iterator[Readable]:
    """Open a log, which gzip may have compressed; `-` is standard input. Raises OSError, also for one in Zstandard."""
    with ExitStack() as opened:
        file = sys.stdin.buffer if path == "-" else opened.enter_context(Path(path).open("rb"))
        start = file.peek(4)[:4] if isinstance(file, io.BufferedReader) else b""
        if start == ZSTANDARD:
            raise OSError("it is compressed with Zstandard: zstd -dc FILE | ./firstlight doctor -")
        yield _UntilDamage(gzip.GzipFile(fileobj=file)) if start.startswith(GZIP) else file


def clean_block(block: bytes) -> bytes:
    """Remove what is not text, colours, and the carriage returns of Windows line ends."""
    return _ANSI.sub(b"", block.translate(None, NOT_TEXT).replace(b"\r\n", b"\n"))


@lru_cache(maxsize=4)  # the patterns of a line ask one after the other
def plain_lines(line: bytes) -> list[str]:
    """Return the texts of a line: one, or the states of a progress bar, or the strings of a JSON record."""
    text = _PREFIX.sub("", line.decode("utf-8", "replace"))
    if text.lstrip().startswith("{") and '"' in text:
        try:
            pieces = [piece for value in _strings(json.loads(text)) for piece in value.splitlines()]
            return [piece[:LINE_BYTES] for piece in pieces] or [text]
        except (ValueError, RecursionError):
            pass
    return [piece[:LINE_BYTES] for piece in (text.split("\r") if "\r" in text else [text])]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield _ANSI_TEXT.sub("", value)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, (int, float)):
                yield f"{key}={item}"
            else:
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


class _Joined:
    """The bytes already read from a stream, then the rest of the stream."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head = io.BytesIO(head)
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        return self._head.read(size) or self._rest.read(size)


def strip_own_output(stream: Readable) -> tuple[Readable, bool]:
    """Blank the lines of a plan or a summary, but for those that it quotes; the numbers of other lines stay the same.

    Returned is also whether the rest may be a description that a person wrote, which an error message of Firstlight is not.
    """
    head = stream.read(HEAD_BYTES)
    summary = _SUMMARY.search(head)
    begin = summary or _PLAN.search(head)
    if begin is None:
        return _Joined(head, stream), not head.startswith(_ERROR)
    text = head + stream.read(MAX_BYTES)
    kept = [
        line if _QUOTED.match(line) or not (summary or line.startswith(b"  ")) else b""
        for line in text[begin.start() :].split(b"\n")
    ]
    return io.BytesIO(text[: begin.start()] + b"\n".join(kept)), False
