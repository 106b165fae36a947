"""Decompression of rotated logs: gzip and Zstandard, recognised by their first bytes."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import zlib
from typing import BinaryIO, Protocol

GZIP, ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Stream(Protocol):
    """Bytes that can be read and closed."""

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class UntilDamage:
    """A decompressing stream that ends where its file is truncated or damaged; the text before counts."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return b""

    def close(self) -> None:
        self._stream.close()


class _ProgramOutput:
    """Standard output of a program; `close` kills the program."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def read(self, size: int, /) -> bytes:
        assert self._process.stdout
        return self._process.stdout.read(size)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def decompress(file: BinaryIO, path: str) -> Stream:
    """Return a stream of a file's text.

    Args:
        file: The opened file.
        path: Its path, or `-` for standard input.

    Raises:
        OSError: The file is compressed with Zstandard, and the program `zstd` cannot read it here.

    """
    start = file.peek(4)[:4] if hasattr(file, "peek") else b""
    if start.startswith(GZIP):
        return UntilDamage(gzip.GzipFile(fileobj=file))
    if start != ZSTANDARD:
        return file
    if path == "-" or shutil.which("zstd") is None:
        raise OSError("it is compressed with Zstandard: zstd -dc FILE | ./firstlight doctor -")
    file.close()
    return _ProgramOutput(["zstd", "-dcq", "--", path])
