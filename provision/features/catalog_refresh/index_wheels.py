"""Wheels on the user's indexes and small files inside them: from metadata files where served, else by range requests."""

import re
import zipfile
import zlib

from provision.catalog.index.http_client import describe_error, get_once, open_client
from provision.catalog.index.project_page import IndexFile, IndexLocation, Wheel
from provision.catalog.index.settings import ClientSettings, read_settings
from provision.catalog.index.sources import find_sources
from provision.core.errors import FirstlightError
from provision.core.formatting import format_bytes
from provision.core.user_path import local_path
from provision.features.catalog_refresh.http_ranges import open_remote

MOST_BYTES = 16 << 20
"""Size limit of a file that is read from a wheel. The longest metadata has some hundred thousand bytes."""


class IndexReadError(FirstlightError):
    """None of the user's indexes answers, or a listed file cannot be read."""


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

        Raises:
            IndexReadError: No index answers.
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
            path = local_path(file.url)
            with path.open("rb") if path else open_remote(self._client, file.url) as content:
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
