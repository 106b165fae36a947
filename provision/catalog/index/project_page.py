"""The user's indexes and find-links locations that answer, and project pages: the files that one lists of a package."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from provision.catalog.index.http_client import describe_error, get, open_client
from provision.catalog.index.settings import ClientSettings, uv_variables, without_credentials
from provision.catalog.index.uv import read_uv_locations
from provision.core.json_text import parse_object
from provision.core.user_path import local_path

if TYPE_CHECKING:
    import httpx

_FORM = re.compile(r"<\s*(form|input|script)\b", re.IGNORECASE)
"""Elements of login and search pages that lists of files never have."""
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


@dataclass(frozen=True)
class IndexLocation:
    """A location of packages. Flat locations (find-links) list files of any package; indexes have one page a package."""

    url: str
    flat: bool = False

    @property
    def label(self) -> str:
        """The address without credentials, for messages."""
        return without_credentials(self.url)


@dataclass(frozen=True)
class IndexFile:
    """A listed file, with address and hash where the page has them."""

    name: str
    url: str = ""
    sha256: str = ""
    size: int | None = None
    metadata: bool = False
    """Whether the wheel's metadata is served as a separate file (PEP 658)."""
    yanked: bool = False
    """Whether the file was yanked (PEP 592)."""
    uploaded: str = ""
    """Upload time where the location has it (PEP 700)."""


@dataclass(frozen=True)
class Wheel:
    """A listed wheel, with what its name says."""

    file: IndexFile
    version: Version
    tags: frozenset[Tag]

    @property
    def machine(self) -> str | None:
        """x86_64 or aarch64 for a wheel for Linux; None for any other."""
        for tag in self.tags:
            if "linux" in tag.platform:
                return next((machine for machine in ("x86_64", "aarch64") if tag.platform.endswith(machine)), None)
        return None


@dataclass(frozen=True)
class ProjectPage:
    """The files of one package at a location; `problem` is the reason when the page cannot be read."""

    location: IndexLocation
    files: tuple[IndexFile, ...] = ()
    problem: str | None = None
    answered: bool = True
    """Whether a server answered. One that refuses a page may serve another."""
    forbidden: bool = False
    """Whether the answer is HTTP 403. A static index, as one on S3, gives it for a package that it lacks."""

    def versions(self, package: str, tags: Iterable[Tag]) -> set[Version]:
        """Return the versions with a wheel that fits one of the tags."""
        fitting = set(tags)
        return {wheel.version for wheel in self.wheels(package) if fitting & wheel.tags}

    def wheels(self, package: str) -> Iterator[Wheel]:
        """Yield each wheel of the package."""
        wanted = canonicalize_name(package)
        for file in self.files:
            try:
                name, version, _, tags = parse_wheel_filename(file.name)
            except InvalidWheelFilename:
                continue
            if name == wanted:
                yield Wheel(file, version, tags)


class IndexClient:
    """Queries each page once. A host that did not answer is not queried again."""

    def __init__(self, open_client: Callable[[], httpx.Client]) -> None:
        self._open_client = open_client
        self._known: dict[tuple[IndexLocation, str], ProjectPage] = {}
        self._silent: dict[str, ProjectPage] = {}

    def fetch_pages(self, wanted: Iterable[tuple[IndexLocation, str]]) -> list[ProjectPage]:
        """Return one page a pair, in order. The page of a silent location has its problem."""
        pairs = list(wanted)
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known and _host(pair[0]) not in self._silent]
        if new:
            with self._open_client() as client, ThreadPoolExecutor(max_workers=min(8, len(new))) as pool:
                answers = list(pool.map(lambda pair: fetch_page(client, *pair), new))
            self._known.update(zip(new, answers, strict=True))
            self._silent |= {host: page for page in answers if not page.answered and (host := _host(page.location))}
        return [self._known.get(pair) or replace(self._silent[_host(pair[0])], location=pair[0]) for pair in pairs]


def _host(location: IndexLocation) -> str:
    return urlsplit(location.url).netloc


def fetch_page(client: httpx.Client, location: IndexLocation, package: str) -> ProjectPage:
    """Query a location for one package. An unknown package gives an empty page without a problem."""
    address = location.url if location.flat else f"{location.url.rstrip('/')}/{canonicalize_name(package)}/"
    if folder := local_path(address):
        return _list_folder(location, folder)
    import httpx

    try:
        answer = get(client, address, headers={"Accept": _ACCEPT})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return ProjectPage(location, problem=describe_error(error), answered=False)
    if answer.status_code in {404, 410}:
        return ProjectPage(location)
    if answer.is_error:
        forbidden = answer.status_code == HTTPStatus.FORBIDDEN
        return ProjectPage(location, problem=f"HTTP {answer.status_code}", forbidden=forbidden)
    return _read(location, answer)


def _read(location: IndexLocation, answer: httpx.Response) -> ProjectPage:
    """Parse an answer, in JSON or HTML."""
    if "json" not in answer.headers.get("content-type", ""):
        files = tuple(_linked(answer.text, str(answer.url)))
        if not files and _FORM.search(answer.text):
            return ProjectPage(location, problem="the answer is a login or search page, not a list of files")
        return ProjectPage(location, files)
    try:
        return ProjectPage(location, tuple(_announced(parse_object(answer.content), str(answer.url))))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return ProjectPage(location, problem=f"the answer is not a list of files ({type(error).__name__})")


def _list_folder(location: IndexLocation, folder: Path) -> ProjectPage:
    if location.flat and folder.is_dir():
        return ProjectPage(
            location, tuple(IndexFile(name) for name in sorted(entry.name for entry in folder.iterdir()))
        )
    for page in (folder, folder / "index.html"):
        if page.is_file():
            return ProjectPage(location, tuple(_linked(page.read_text(encoding="utf-8"), page.as_uri())))
    root = folder if location.flat else folder.parent
    return ProjectPage(location) if root.is_dir() else ProjectPage(location, problem="no such folder")


def _announced(page: dict[str, Any], address: str) -> Iterator[IndexFile]:
    """Yield the files of a JSON page (PEP 691)."""
    for file in page["files"]:
        url = _joined(address, str(file.get("url", "")))
        if url is None:
            continue
        size = file.get("size")
        yield IndexFile(
            name=str(file["filename"]),
            url=url,
            sha256=(file.get("hashes") or {}).get("sha256", ""),
            size=size if isinstance(size, int) and size > 0 else None,
            metadata=bool(file.get("core-metadata") or file.get("dist-info-metadata")),
            yanked=bool(file.get("yanked")),
            uploaded=str(file.get("upload-time") or ""),
        )


def _linked(text: str, address: str) -> Iterator[IndexFile]:
    """Yield the files of an HTML page (PEP 503)."""
    anchors = _Anchors()
    anchors.feed(text)
    for attributes in anchors.found:
        target = _joined(address, attributes["href"] or "")
        if target is None:
            continue
        url, fragment = urldefrag(target)
        algorithm, _, digest = fragment.partition("=")
        yield IndexFile(
            name=unquote(urlsplit(url).path).rpartition("/")[2],
            url=url,
            sha256=digest if algorithm == "sha256" else "",
            metadata=bool({"data-core-metadata", "data-dist-info-metadata"} & attributes.keys()),
            yanked="data-yanked" in attributes,
            uploaded=attributes.get("data-upload-time") or "",
        )


def _joined(address: str, link: str) -> str | None:
    """Resolve a link of a page; None when it is malformed."""
    try:
        return urljoin(address, link)
    except ValueError:
        return None


class _Anchors(HTMLParser):
    """Collects the links of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and any(name == "href" for name, _ in attrs):
            self.found.append(dict(attrs))


@dataclass(frozen=True)
class IndexSources:
    """Indexes and find-links locations that answer, and the variables that configure uv with them."""

    settings: ClientSettings
    indexes: tuple[str, ...]
    find_links: tuple[str, ...]
    variables: dict[str, str]
    index_client: IndexClient
    notes: tuple[str, ...] = ()


def find_sources(settings: ClientSettings) -> IndexSources:
    """Combine the settings of pip and uv. Leave out extra indexes and find-links locations that do not answer, as pip does.

    Extra indexes that answer HTTP 403 come after all others: uv looks for a package in no index after one that answers so.

    Returns:
        The locations, with a note for each one that was left out.
    """
    addresses = [settings.index or "", *settings.extra_indexes, *settings.find_links]
    index_client = IndexClient(lambda: open_client(settings, addresses))
    extra = [] if settings.no_index else [IndexLocation(url) for url in settings.extra_indexes]
    links = [IndexLocation(url, flat=True) for url in settings.find_links]
    pages = index_client.fetch_pages((location, "pip") for location in [*extra, *links])
    forbidding = {page.location for page in pages if page.forbidden and not page.location.flat}
    silent = [page for page in pages if page.problem and page.location not in forbidding]
    missing = {page.location.url for page in silent}
    answering = replace(
        settings,
        extra_indexes=tuple(
            location.url for location in sorted(extra, key=forbidding.__contains__) if location.url not in missing
        ),
        find_links=tuple(location.url for location in links if location.url not in missing),
    )
    indexes, find_links = read_uv_locations(answering)
    addresses += indexes
    return IndexSources(
        settings,
        () if settings.no_index else tuple(dict.fromkeys([*indexes, *answering.extra_indexes])),
        tuple(find_links),
        uv_variables(answering, default_index=indexes[0] if indexes else ""),
        index_client,
        tuple(f"{page.location.label} was left out: {page.problem}" for page in silent),
    )
