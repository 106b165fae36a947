"""What an index or a find-links place holds of one package, and whether it answers at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from provision.catalog.index.http_client import get
from provision.catalog.index.local_path import local_path
from provision.catalog.index.settings import without_credentials
from provision.core.json_text import parse_object

if TYPE_CHECKING:
    import httpx

_FORM = re.compile(r"<\s*(form|input|script)\b", re.IGNORECASE)
"""What lists of files have none of, unlike pages that ask for a password before anything else."""
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


@dataclass(frozen=True)
class Place:
    """Where builds may be found. Flat places (find-links) list files of any package; indexes have a page a package."""

    url: str
    flat: bool = False

    @property
    def label(self) -> str:
        """How a message names it, without credentials."""
        return without_credentials(self.url)

    def page(self, package: str) -> str:
        return self.url if self.flat else f"{self.url.rstrip('/')}/{canonicalize_name(package)}/"


@dataclass(frozen=True)
class IndexFile:
    """A file that a place lists; address and hash where the page gives them."""

    name: str
    url: str = ""
    sha256: str = ""
    size: int | None = None
    metadata: bool = False
    """Whether the place serves the wheel's metadata by itself (PEP 658)."""
    yanked: bool = False
    """Whether it was taken back (PEP 592)."""
    uploaded: str = ""
    """When, where the place tells it (PEP 700)."""


@dataclass(frozen=True)
class ProjectPage:
    """Files of one package at a place; `problem` says why nothing could be learned."""

    place: Place
    offers: tuple[IndexFile, ...] = ()
    problem: str | None = None
    answered: bool = True
    """Whether a server answered at all; one that refuses a page may serve another."""

    def versions(self, package: str, tags: Iterable[Tag]) -> set[Version]:
        """Versions that have a wheel which fits one of the tags."""
        fitting = set(tags)
        return {version for version, found, _ in self._wheels(package) if fitting & found}

    def best(self, package: str, version: Version, tags: Sequence[Tag]) -> IndexFile | None:
        """The wheel of a version that fits best by its tags, the best of which is the first."""
        ranks = {tag: rank for rank, tag in enumerate(tags)}
        fitting = [
            (min(ranks[tag] for tag in found if tag in ranks), offer)
            for at, found, offer in self._wheels(package)
            if at == version and not ranks.keys().isdisjoint(found)
        ]
        return min(fitting, key=lambda pair: pair[0])[1] if fitting else None

    def _wheels(self, package: str) -> Iterator[tuple[Version, frozenset[Tag], IndexFile]]:
        wanted = canonicalize_name(package)
        for offer in self.offers:
            try:
                name, version, _, tags = parse_wheel_filename(offer.name)
            except InvalidWheelFilename:
                continue
            if name == wanted:
                yield version, tags, offer


class IndexClient:
    """Asks places, each once: what it learned holds for the whole stage, and a host that did not answer is not asked again."""

    def __init__(self, open_client: Callable[[], httpx.Client]) -> None:
        self._open_client = open_client
        self._known: dict[tuple[Place, str], ProjectPage] = {}
        self._silent: dict[str, str] = {}

    def list_all(self, wanted: Iterable[tuple[Place, str]]) -> list[ProjectPage]:
        """One listing a pair, in order; a place that does not answer gives a listing with its problem."""
        pairs = list(wanted)
        for place, package in pairs:
            if problem := self._silent.get(_host(place)):
                self._known.setdefault((place, package), ProjectPage(place, problem=problem, answered=False))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            with self._open_client() as client, ThreadPoolExecutor(max_workers=min(8, len(new))) as pool:
                answers = pool.map(lambda pair: ask(client, *pair), new)
                self._known.update(zip(new, answers, strict=True))
        self._silent |= {
            _host(place): said
            for (place, _), listing in self._known.items()
            if (said := listing.problem) and not listing.answered and _host(place)
        }
        return [self._known[pair] for pair in pairs]


def _host(place: Place) -> str:
    return urlsplit(place.url).netloc


def ask(client: httpx.Client, place: Place, package: str) -> ProjectPage:
    """What a place lists of a package; that it does not know the package is no problem."""
    page = place.page(package)
    if folder := local_path(page):
        return _list_folder(place, folder)
    import httpx  # noqa: PLC0415 (a cached stage never needs it)

    try:
        answer = get(client, page, headers={"Accept": _ACCEPT})
    except httpx.HTTPStatusError as error:
        return ProjectPage(place, problem=f"HTTP {error.response.status_code}", answered=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return ProjectPage(place, problem=without_credentials(str(error)) or type(error).__name__, answered=False)
    if answer.status_code in {404, 410}:
        return ProjectPage(place)
    if answer.is_error:
        return ProjectPage(place, problem=f"HTTP {answer.status_code}")
    return _read(place, answer)


def _read(place: Place, answer: httpx.Response) -> ProjectPage:
    """A page, in the form that the place chose."""
    if "json" not in answer.headers.get("content-type", ""):
        offers = tuple(_linked(answer.text, str(answer.url)))
        if not offers and _FORM.search(answer.text):
            return ProjectPage(place, problem="what it answers is a page to log in or to search, no list of files")
        return ProjectPage(place, offers)
    try:
        return ProjectPage(place, tuple(_announced(parse_object(answer.content), str(answer.url))))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return ProjectPage(place, problem=f"what it answers is no list of files ({type(error).__name__})")


def _list_folder(place: Place, folder: Path) -> ProjectPage:
    if place.flat and folder.is_dir():
        return ProjectPage(place, tuple(IndexFile(name) for name in sorted(entry.name for entry in folder.iterdir())))
    for page in (folder, folder / "index.html"):
        if page.is_file():
            return ProjectPage(place, tuple(_linked(page.read_text(encoding="utf-8"), page.as_uri())))
    root = folder if place.flat else folder.parent
    return ProjectPage(place) if root.is_dir() else ProjectPage(place, problem="no such folder")


def _announced(page: dict[str, Any], address: str) -> Iterator[IndexFile]:
    """The files of a page in JSON (PEP 691)."""
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
    """The files that a page in HTML links to (PEP 503)."""
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
    """Where a link of a page leads; null for one that is malformed."""
    try:
        return urljoin(address, link)
    except ValueError:
        return None


class _Anchors(HTMLParser):
    """The links of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and any(name == "href" for name, _ in attrs):
            self.found.append(dict(attrs))
