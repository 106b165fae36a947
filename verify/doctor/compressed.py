"""Logs as rotation leaves them: gzip and Zstandard, told by their first bytes."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import zlib
from typing import BinaryIO, Protocol

GZIP, ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class UntilDamage:
    """A decompressing stream that ends where its file is cut or damaged: what stands before counts."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return b""

    def close(self) -> None:
        self._stream.close()


class _Program:
    """What a program writes on its standard output; closing ends it."""

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


def decompressed(file: BinaryIO, path: str) -> Readable:
    """The stream of a file's text. Raises OSError for Zstandard where nothing here reads it."""
    start = file.peek(4)[:4] if hasattr(file, "peek") else b""
    if start.startswith(GZIP):
        return UntilDamage(gzip.GzipFile(fileobj=file))
    if start != ZSTANDARD:
        return file
    if path == "-" or shutil.which("zstd") is None:
        raise OSError("it is compressed with Zstandard: zstd -dc FILE | ./firstlight doctor -")
    file.close()
    return _Program(["zstd", "-dcq", "--", path])
