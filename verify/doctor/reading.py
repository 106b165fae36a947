"""The form of texts: encodings, colours, line ends, progress bars and JSON records, down to plain lines."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

from verify.doctor import compressed

BLOCK_BYTES = 1 << 20
LINE_BYTES = 2048
"""An expression sees at most this much of a line, around the plain text that led to it."""
JSON_BYTES = 1 << 16
"""Longer JSON records are taken as plain text."""

_ANSI = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_ANSI_TEXT = re.compile(_ANSI.pattern.decode())


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def opened(path: str) -> compressed.Readable:
    """A file's text for reading, decompressed where it is not plain; `-` is standard input. Raises OSError."""
    file: BinaryIO = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: PTH123, SIM115 - the caller closes it
    return compressed.decompressed(file, path)


def decoded(stream: Readable) -> Iterator[bytes]:
    """The blocks of a stream as UTF-8, or what passes for it. UTF-16 is what Windows shells write."""
    block = stream.read(BLOCK_BYTES)
    encoding = _encoding(block)
    decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None
    while block:
        text = decoder.decode(block).encode("utf-8", "replace") if decoder else block
        yield text or b"\n"
        block = stream.read(BLOCK_BYTES)


def _encoding(block: bytes) -> str | None:
    if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    sample = block[:512]
    return "utf-16-le" if len(sample) > 7 and sample[1::2].count(0) * 10 > len(sample) * 4 else None


def cleaned(block: bytes) -> bytes:
    """A block without colours, NUL and the line ends of Windows."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    if b"\x1b" in block:
        block = _ANSI.sub(b"", block)
    return block.replace(b"\0", b"") if b"\0" in block else block


def plain(line: bytes) -> list[str]:
    """The texts of a line: one, or those that a progress bar overwrote or a JSON record holds."""
    text = line.decode("utf-8", "replace")
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
