"""A remote file as a seekable file object; only the parts that are read are transferred."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from provision.catalog.index.http_client import get_once
from provision.core.errors import FirstlightError

if TYPE_CHECKING:
    import httpx

BLOCK = 64 * 1024
"""Bytes of one request. A wheel's directory and a few small files take two or three blocks."""


class RangeError(FirstlightError):
    """The server does not send parts of a file."""


class RangeFile(io.RawIOBase):
    """A read-only remote file. Raises RangeError when the server does not send the requested part."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url
        self._at = 0
        self._blocks: dict[int, bytes] = {}
        self._size = self._tail()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._at + size)
        parts = []
        while self._at < end:
            number, skip = divmod(self._at, BLOCK)
            part = self._block(number)[skip : skip + end - self._at]
            parts.append(part)
            self._at += len(part)
        return b"".join(parts)

    def _tail(self) -> int:
        """Read the last block, which has a wheel's directory, and return the file size."""
        answer = self._get(f"-{BLOCK}")
        total = answer.headers.get("content-range", "").rpartition("/")[2]
        if not total.isdigit():
            raise RangeError(f"`{self._name()}`: the server does not send the size of the file")
        size, first = int(total), int(total) - len(answer.content)
        for number in range(-(-first // BLOCK), -(-size // BLOCK)):
            self._blocks[number] = answer.content[number * BLOCK - first : (number + 1) * BLOCK - first]
        return size

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * BLOCK
            content = self._get(f"{start}-{min(start + BLOCK, self._size) - 1}").content
            if len(content) != min(BLOCK, self._size - start):
                raise RangeError(f"`{self._name()}`: the server sent {len(content)} bytes instead of {BLOCK}")
            self._blocks[number] = content
        return self._blocks[number]

    def _get(self, part: str) -> httpx.Response:
        answer = get_once(self._client, self._url, headers={"Range": f"bytes={part}", "Accept-Encoding": "identity"})
        if answer.status_code != 206:
            raise RangeError(
                f"`{self._name()}`: the server sends no parts of files (HTTP {answer.status_code})",
                hint="the index serves no metadata files either; use another index of the same packages",
            )
        return answer

    def _name(self) -> str:
        return self._url.rpartition("/")[2]
