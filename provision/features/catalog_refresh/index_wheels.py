"""Wheels on the user's indexes and small files inside them: from metadata files where served, else by range requests."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

from provision.catalog.index.http_client import describe_error, get_once, open_client
from provision.catalog.index.project_page import IndexFile, IndexLocation, Wheel, find_sources
from provision.catalog.index.settings import ClientSettings, read_settings
from provision.core.errors import FirstlightError
from provision.core.formatting import format_bytes
from provision.core.user_path import local_path

if TYPE_CHECKING:
    import httpx


BLOCK = 64 * 1024
"""The least bytes of one request."""
MOST_BYTES = 16 << 20
"""Size limit of a file that is read from a wheel. The longest metadata has some hundred thousand bytes."""


class IndexReadError(FirstlightError):
    """None of the user's indexes answers, or a listed file cannot be read."""


class RangeFile(io.RawIOBase):
    """A remote file without a buffer: each read is a request, and raises IndexReadError where the server refuses it."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client, self._url, self._at = client, url, 0
        self._name = url.rpartition("/")[2]
        total = self._get(0, 1).headers.get("content-range", "").rpartition("/")[2]
        if not total.isdigit():
            raise IndexReadError(f"`{self._name}`: the server does not send the size of the file")
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
            raise IndexReadError(f"`{self._name}`: the server sent {len(content)} bytes instead of {wanted}")
        buffer[:wanted] = content
        self._at += wanted
        return wanted

    def _get(self, start: int, size: int) -> httpx.Response:
        part = {"Range": f"bytes={start}-{start + size - 1}", "Accept-Encoding": "identity"}
        answer = get_once(self._client, self._url, headers=part)
        if answer.status_code != 206:
            raise IndexReadError(
                f"`{self._name}`: the server sends no parts of files (HTTP {answer.status_code})",
                hint="the index serves no metadata files either; use another index of the same packages",
            )
        return answer


class WheelIndex:
    """The user's indexes, the main one first. The first index with a package is used, as in uv."""

    def __init__(self, settings: ClientSettings | None = None) -> None:
        settings = settings or read_settings()
        self._sources = find_sources(settings)
        self._client = open_client(settings, [*self._sources.indexes, *settings.extra_indexes])

    def close(self) -> None:
        self._client.close()

    def wheels(self, package: str) -> list[Wheel]:
        """Return every wheel of a package, oldest release first; an empty list when no index has it.

        Raises IndexReadError where no index answers.
        """
        wanted = ((IndexLocation(index), package) for index in self._sources.indexes)
        pages = self._sources.index_client.fetch_pages(wanted)
        if page := next((page for page in pages if page.files), None):
            return sorted(page.wheels(package), key=lambda wheel: wheel.version)
        problems = [f"{page.location.label}: {page.problem}" for page in pages if page.problem]
        if problems or not pages:
            raise IndexReadError(
                f"no package index answers for `{package}`: {'; '.join(problems) or 'none is configured'}",
                hint="only a refresh needs one: check the indexes in your pip or uv settings",
            )
        return []

    def read(self, file: IndexFile, member: str) -> str | None:
        """Return the text of a member of a wheel, `METADATA` or a path; None when the wheel does not have it.

        Raises:
            IndexReadError: The server sends nothing, no parts of files, or no valid wheel.
        """
        import httpx

        try:
            if member == "METADATA" and file.metadata:
                answer = get_once(self._client, f"{file.url}.metadata")
                if answer.is_success:
                    return answer.text
            path = local_path(file.url)
            with path.open("rb") if path else io.BufferedReader(RangeFile(self._client, file.url), BLOCK) as content:
                return _text(zipfile.ZipFile(content), member)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            problem = f"`{file.name}` cannot be fetched: {describe_error(error)}"
            raise IndexReadError(problem, hint="try again, or check that index") from None
        except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            # zipfile raises RuntimeError for encrypted members and unknown compression.
            problem = f"`{file.name}` on your index is damaged: {error}"
            raise IndexReadError(problem, hint="replace the file on that index") from None


def _text(archive: zipfile.ZipFile, member: str) -> str | None:
    pattern = r"[^/]+\.dist-info/METADATA" if member == "METADATA" else re.escape(member)
    name = next((name for name in archive.namelist() if re.fullmatch(pattern, name)), None)
    if name is None:
        return None
    with archive.open(name) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise zipfile.BadZipFile(f"`{name}` has more than {format_bytes(MOST_BYTES)}")
    return content.decode("utf-8", "replace")
