"""A remote file as a seekable file object; only the parts that are read are transferred."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from provision.catalog.index.http_client import get_once
from provision.core.errors import FirstlightError

if TYPE_CHECKING:
    import httpx

BLOCK = 64 * 1024
"""The least bytes of one request."""


class RangeError(FirstlightError):
    """The server does not send parts of a file."""


def open_remote(client: httpx.Client, url: str) -> io.BufferedReader:
    """Open a remote file for reading. Opening and reading raise RangeError when the server does not send the requested part."""
    return io.BufferedReader(_RangeFile(client, url), BLOCK)


class _RangeFile(io.RawIOBase):
    """The file without a buffer: each read is a request."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url
        self._at = 0
        total = self._get(0, 1).headers.get("content-range", "").rpartition("/")[2]
        if not total.isdigit():
            raise RangeError(f"`{self._name()}`: the server does not send the size of the file")
        self._size = int(total)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        content = self._get(self._at, wanted).content if wanted else b""
        if len(content) != wanted:
            raise RangeError(f"`{self._name()}`: the server sent {len(content)} bytes instead of {wanted}")
        buffer[:wanted] = content
        self._at += wanted
        return wanted

    def _get(self, start: int, size: int) -> httpx.Response:
        part = {"Range": f"bytes={start}-{start + size - 1}", "Accept-Encoding": "identity"}
        answer = get_once(self._client, self._url, headers=part)
        if answer.status_code != 206:
            raise RangeError(
                f"`{self._name()}`: the server sends no parts of files (HTTP {answer.status_code})",
                hint="the index serves no metadata files either; use another index of the same packages",
            )
        return answer

    def _name(self) -> str:
        return self._url.rpartition("/")[2]
