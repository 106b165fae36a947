"""Published wheels: from the user's find-links folders, else from the address in the plan.

Authors publish no hashes. The hash of the first download is in the lock, and later downloads must have it too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from provision.catalog.index.http_client import describe_error, get, open_client
from provision.catalog.index.settings import ClientSettings
from provision.catalog.index.sources import IndexSources
from provision.core.errors import StageError
from provision.core.json_text import parse
from provision.core.models.stack import FlashAttnPackage
from provision.core.scratch import scratch_folder
from provision.core.user_path import local_path
from provision.phases.stage.download import download
from provision.phases.stage.extension import read_extension
from provision.phases.stage.wheelhouse import Store, sha256_of

_KIND = "published"


def fetch_published(package: FlashAttnPackage, sources: IndexSources, store: Store) -> Path:
    """Put a published wheel into the wheelhouse, under the name in its own metadata: uv installs no other.

    Raises:
        StageError: The wheel cannot be had, or differs from the first download.
    """
    known = store.get(_KIND, package.file)
    if known and (path := store.find(known["sha256"], known["name"])):
        return path
    expected = known["sha256"] if known else None
    folders = filter(None, map(local_path, sources.find_links))
    if local := next((folder / package.file for folder in folders if (folder / package.file).is_file()), None):
        return _keep(local, package.file, expected, store)
    url, announced = _where(package, sources)
    with scratch_folder() as folder, open_client(sources.settings) as client:
        part = folder / package.file
        download(client, url, part, hint=HINT)
        if announced and (found := sha256_of(part)) != announced:
            raise StageError(
                f"`{package.file}` differs from the file on {package.community}: sha256 is `{found}`, announced is `{announced}`",
                hint="run again; if it fails again, a proxy changes files, or the file was replaced",
            )
        return _keep(part, package.file, expected, store)


def _where(package: FlashAttnPackage, sources: IndexSources) -> tuple[str, str | None]:
    """Return the address of the wheel, and its hash where one is announced."""
    if package.community:
        return find_released(package.community, package.file, sources.settings)
    if package.url:
        return package.url, None
    raise StageError(f"`{package.file}` is not published", hint="build it: firstlight_builder: controller")


def _keep(source: Path, name: str, expected: str | None, store: Store) -> Path:
    found = sha256_of(source)
    if expected and found != expected:
        raise StageError(
            f"`{name}` has changed: sha256 is `{found}`, it was `{expected}`",
            hint=f"to accept the change, remove {store.root / _KIND / f'{name}.json'}",
        )
    distribution, _, tags = name.split("-", 2)
    own_version = read_extension(source, published_as=name).own_version
    path = store.add(source, name=f"{distribution}-{own_version}-{tags}", sha256=found)
    store.put(_KIND, name, {"sha256": found, "name": path.name})
    return path


API = "https://api.github.com"
"""Without a login it answers 60 requests an hour. Source: docs.github.com/rest/releases/releases."""
PAGE = 30
"""Releases in one answer, newest first; each lists all of its files."""
MOST_PAGES = 100
"""Limit of pages. A repository with more releases does not publish wheels."""

HINT = "put that file into a find-links folder of your settings, or build it: firstlight_builder: controller"


def find_released(repository: str, file: str, settings: ClientSettings) -> tuple[str, str | None]:
    """Find a file in the releases of a repository (`owner/name`), newest release first.

    Returns:
        Its address, and its sha256 where the host has one.

    Raises:
        StageError: No release has it, or the host does not answer.
    """
    import httpx

    address = f"{API}/repos/{repository}/releases"
    try:
        with open_client(settings) as client:
            for page in range(1, MOST_PAGES + 1):
                releases = _page(get(client, address, params={"per_page": PAGE, "page": page}))
                if not releases:
                    break
                for asset in (asset for release in releases for asset in release["assets"]):
                    if asset["name"] == file:
                        kind, _, digest = str(asset.get("digest") or "").partition(":")
                        return asset["browser_download_url"], digest if kind == "sha256" else None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = describe_error(error)
    except (ValueError, KeyError, TypeError):
        problem = "the answer is not a list of releases"
    else:
        raise StageError(f"no release of {repository} has `{file}`", hint=HINT)
    raise StageError(f"{urlsplit(API).hostname} cannot locate `{file}`: {problem}", hint=HINT)


def _page(answer: Any) -> list[dict[str, Any]]:
    answer.raise_for_status()
    found = parse(answer.content)
    if not isinstance(found, list):
        raise TypeError(found)
    return found
