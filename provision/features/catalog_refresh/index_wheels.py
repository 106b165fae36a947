"""Wheels on the user's indexes and small files inside them: from metadata files where served, else by range requests."""

import re
import zipfile
import zlib
from contextlib import closing
from typing import Any

from provision.catalog.index.http_client import describe_error, get_once, open_client
from provision.catalog.index.project_page import IndexFile, IndexLocation, Wheel, fetch_page
from provision.catalog.index.settings import ClientSettings, read_settings
from provision.catalog.index.sources import find_sources
from provision.core.errors import FirstlightError
from provision.core.formatting import format_bytes
from provision.core.user_path import local_path
from provision.features.catalog_refresh.http_ranges import RangeFile

MOST_BYTES = 16 << 20
"""Size limit of a file that is read from a wheel. The longest metadata has some hundred thousand bytes."""


class IndexReadError(FirstlightError):
    """None of the user's indexes answers, or a listed file cannot be read."""


class WheelIndex:
    """The user's indexes, the main one first. The first index with a package is used, as in uv."""

    def __init__(self, settings: ClientSettings | None = None) -> None:
        settings = settings or read_settings()
        sources = find_sources(settings)
        self._indexes = sources.indexes
        self._client = open_client(settings, [*sources.indexes, *settings.extra_indexes])

    def close(self) -> None:
        self._client.close()

    def wheels(self, package: str) -> list[Wheel]:
        """Return every wheel of a package, oldest release first; an empty list when no index has it.

        Raises:
            IndexReadError: No index answers.
        """
        problems = []
        for index in self._indexes:
            page = fetch_page(self._client, IndexLocation(index), package)
            if page.files:
                return sorted(page.wheels(package), key=lambda wheel: wheel.version)
            if page.problem:
                problems.append(f"{page.location.label}: {page.problem}")
        if problems or not self._indexes:
            raise IndexReadError(
                f"no package index answers for `{package}`: {'; '.join(problems) or 'none is configured'}",
                hint="only a refresh needs one: check the indexes in your pip or uv settings",
            )
        return []

    def read(self, file: IndexFile, member: str) -> str | None:
        """Return the text of a file in a wheel; None when the wheel does not have it.

        Args:
            file: The wheel.
            member: `METADATA` or a path.

        Raises:
            RangeError: The server sends no parts of files.
            IndexReadError: The server sends nothing, or no valid wheel.
        """
        import httpx

        try:
            if member == "METADATA" and file.metadata:
                answer = get_once(self._client, f"{file.url}.metadata")
                if answer.is_success:
                    return answer.text
            with closing(self._open(file.url)) as content, zipfile.ZipFile(content) as archive:
                names = archive.namelist()
                name = next((name for name in names if _is(name, member)), None)
                return _text(archive, name) if name else None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            problem = f"`{file.name}` cannot be fetched: {describe_error(error)}"
            raise IndexReadError(problem, hint="try again, or check that index") from None
        except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            # zipfile raises RuntimeError for encrypted members and unknown compression.
            problem = f"`{file.name}` on your index is damaged: {error}"
            raise IndexReadError(problem, hint="replace the file on that index") from None

    def _open(self, url: str) -> Any:
        path = local_path(url)
        return path.open("rb") if path else RangeFile(self._client, url)


def _text(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise zipfile.BadZipFile(f"`{name}` has more than {format_bytes(MOST_BYTES)}")
    return content.decode("utf-8", "replace")


def _is(name: str, member: str) -> bool:
    return bool(re.fullmatch(r"[^/]+\.dist-info/METADATA", name)) if member == "METADATA" else name == member
