"""Wheels on the user's own places, and the small files in them: by the index's metadata file where it serves one, else by parts."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from provision.catalog.index.http_client import get_once, open_client
from provision.catalog.index.local_path import local_path
from provision.catalog.index.project_page import IndexFile, Place, ask
from provision.catalog.index.settings import ClientSettings, read_settings, without_credentials
from provision.catalog.index.sources import find_sources
from provision.catalog.refresh.http_ranges import RangeFile
from provision.core.errors import FirstlightError
from provision.core.formatting import size

MOST_BYTES = 16 << 20
"""Of a file in a wheel that is read: the longest metadata has some hundred thousand."""


class IndexUnreachableError(FirstlightError):
    """No index of the user's answers, or not with what it announces."""


@dataclass(frozen=True)
class Wheel:
    """One wheel that a place offers."""

    name: str
    url: str
    version: Version
    tags: frozenset[Tag]
    metadata: bool
    """The index says that it serves the metadata by itself."""
    yanked: bool
    uploaded: str = ""
    """When, where the index tells it."""

    @property
    def machine(self) -> str | None:
        """x86_64 or aarch64 for a wheel of Linux; None for any other."""
        for tag in self.tags:
            if "linux" in tag.platform:
                return next((machine for machine in ("x86_64", "aarch64") if tag.platform.endswith(machine)), None)
        return None


class Index:
    """The user's indexes, the main one first; the first that knows a package is asked about it, as uv does."""

    def __init__(self, settings: ClientSettings | None = None) -> None:
        settings = settings or read_settings()
        sources = find_sources(settings)
        self._indexes = sources.indexes
        self._client = open_client(settings, [*sources.indexes, *settings.extra_indexes])

    def close(self) -> None:
        self._client.close()

    def wheels(self, package: str) -> list[Wheel]:
        """Every wheel of a package, oldest release first; none where no index knows it.

        Raises IndexUnreachableError with what each index said, when none answers.
        """
        problems = []
        for index in self._indexes:
            listing = ask(self._client, Place(index), package)
            if listing.offers:
                return sorted(_wheels(package, listing.offers), key=lambda wheel: wheel.version)
            if listing.problem:
                problems.append(f"{listing.place.label}: {listing.problem}")
        if problems or not self._indexes:
            raise IndexUnreachableError(
                f"no package index answers for `{package}`: {'; '.join(problems) or 'none is configured'}",
                hint="the catalog needs none to plan; to refresh it, let this machine reach the index that your pip or uv settings name",
            )
        return []

    def read(self, wheel: Wheel, member: str) -> str | None:
        """The text of a file in a wheel, `METADATA` or a path; None when the wheel has no such file.

        Raises RangeError when the server sends no parts of files, IndexUnreachableError when it sends nothing, or no wheel.
        """
        import httpx  # noqa: PLC0415 - the catalog is read without it

        try:
            if member == "METADATA" and wheel.metadata:
                answer = get_once(self._client, f"{wheel.url}.metadata")
                if answer.is_success:
                    return answer.text
            with closing(self._open(wheel.url)) as file, zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                name = next((name for name in names if _is(name, member)), None)
                return _text(archive, name) if name else None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            problem = f"`{wheel.name}` does not come: {without_credentials(str(error)) or type(error).__name__}"
            raise IndexUnreachableError(problem, hint="try again, or look at what serves that index") from None
        except (
            zipfile.BadZipFile,
            zlib.error,
            RuntimeError,
        ) as error:  # RuntimeError: it is encrypted, or of a new kind
            problem = f"`{wheel.name}` on your index is no whole wheel: {error}"
            raise IndexUnreachableError(
                problem, hint="have it replaced there: nothing can be installed from it"
            ) from None

    def _open(self, url: str) -> Any:
        path = local_path(url)
        return path.open("rb") if path else RangeFile(self._client, url)


def _text(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise zipfile.BadZipFile(f"`{name}` in it has more than {size(MOST_BYTES)}")
    return content.decode("utf-8", "replace")


def _is(name: str, member: str) -> bool:
    return bool(re.fullmatch(r"[^/]+\.dist-info/METADATA", name)) if member == "METADATA" else name == member


def _wheels(package: str, offers: Iterable[IndexFile]) -> Iterator[Wheel]:
    for offer in offers:
        try:
            name, version, _, tags = parse_wheel_filename(offer.name)
        except InvalidWheelFilename:
            continue
        if name == canonicalize_name(package):
            yield Wheel(offer.name, offer.url, version, tags, offer.metadata, offer.yanked, offer.uploaded)
