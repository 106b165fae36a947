"""Wheels on the user's own places, and the small files in them: by the index's metadata file where it serves one, else by parts."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from provision.artifacts.client import open_client
from provision.artifacts.locking import find_sources
from provision.artifacts.user_index import ClientSettings, read_settings, without_credentials
from provision.errors import FirstlightError
from provision.upstream.ranges import RangeFile

if TYPE_CHECKING:
    import httpx

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


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
            page = f"{index.rstrip('/')}/{canonicalize_name(package)}/"
            try:
                found = self._page(page)
            except (OSError, ValueError, FirstlightError) as error:
                problems.append(
                    f"{without_credentials(index)}: {without_credentials(str(error)) or type(error).__name__}"
                )
                continue
            if found is not None:
                return sorted(_wheels(package, found), key=lambda wheel: wheel.version)
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
                answer = self._client.get(f"{wheel.url}.metadata")
                if answer.is_success:
                    return answer.text
            with closing(self._open(wheel.url)) as file, zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                name = next((name for name in names if _is(name, member)), None)
                return archive.read(name).decode("utf-8", "replace") if name else None
        except (httpx.HTTPError, OSError) as error:
            problem = f"`{wheel.name}` does not come: {without_credentials(str(error)) or type(error).__name__}"
            raise IndexUnreachableError(problem, hint="try again, or look at what serves that index") from None
        except (zipfile.BadZipFile, zlib.error) as error:
            problem = f"`{wheel.name}` on your index is no whole wheel: {error}"
            raise IndexUnreachableError(
                problem, hint="have it replaced there: nothing can be installed from it"
            ) from None

    def _open(self, url: str) -> Any:
        return _local(url).open("rb") if _is_local(url) else RangeFile(self._client, url)

    def _page(self, url: str) -> list[dict[str, Any]] | None:
        """The entries of a package's page; None when the index does not know the package."""
        import httpx  # noqa: PLC0415 - the catalog is read without it

        if _is_local(url):
            path = _local(url) / "index.html"
            return _entries(path.read_text(encoding="utf-8"), url) if path.is_file() else None
        try:
            answer = self._client.get(url, headers={"Accept": _ACCEPT})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise FirstlightError(str(error) or type(error).__name__) from None
        if answer.status_code in {404, 410}:
            return None
        if answer.is_error:
            raise FirstlightError(f"HTTP {answer.status_code}")
        if "json" in answer.headers.get("content-type", ""):
            return _json_entries(answer)
        return _entries(answer.text, str(answer.url))


def _is(name: str, member: str) -> bool:
    return bool(re.fullmatch(r"[^/]+\.dist-info/METADATA", name)) if member == "METADATA" else name == member


def _is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def _local(url: str) -> Path:
    return Path(unquote(urlsplit(url).path) if "://" in url else url)


def _json_entries(answer: httpx.Response) -> list[dict[str, Any]]:
    return [
        {
            "name": str(file["filename"]),
            "url": urljoin(str(answer.url), file["url"]),
            "metadata": bool(file.get("core-metadata") or file.get("dist-info-metadata")),
            "yanked": bool(file.get("yanked")),
        }
        for file in json.loads(answer.text).get("files", [])
    ]


class _Anchors(HTMLParser):
    """The links of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append(dict(attrs))


def _entries(text: str, url: str) -> list[dict[str, Any]]:
    anchors = _Anchors()
    anchors.feed(text)
    found = []
    for attributes in anchors.found:
        link = urljoin(url, unescape(attributes.get("href") or "")).partition("#")[0]
        said = attributes.keys()
        found.append(
            {
                "name": unquote(urlsplit(link).path).rpartition("/")[2],
                "url": link,
                "metadata": bool({"data-core-metadata", "data-dist-info-metadata"} & said),
                "yanked": "data-yanked" in said,
            }
        )
    return found


def _wheels(package: str, entries: list[dict[str, Any]]) -> Iterator[Wheel]:
    for entry in entries:
        try:
            name, version, _, tags = parse_wheel_filename(entry["name"])
        except InvalidWheelFilename:
            continue
        if name == canonicalize_name(package):
            yield Wheel(version=version, tags=tags, **entry)
