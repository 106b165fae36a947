"""A wheel that somebody publishes: from the user's own find-links folders, else from where the plan says it lies.

Its authors publish no hash. The one of the first time counts: it stands in the lock, and the same file fetched again must have it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from provision.catalog.index.http_client import open_client
from provision.catalog.index.local_path import local_path
from provision.catalog.index.settings import without_credentials
from provision.catalog.index.sources import Sources
from provision.core.errors import StageError
from provision.core.models.stack import FlashAttnPackage
from provision.phases.stage.builds.extension import Extension, read_extension
from provision.phases.stage.builds.github_releases import find_released
from provision.phases.stage.wheelhouse import Store, sha256_of

_KIND = "published"


def fetch_published(package: FlashAttnPackage, sources: Sources, store: Store) -> Path:
    """The wheel's path in the wheelhouse, under the name that its own metadata gives it: uv installs no other.

    Raises StageError when it is nowhere to be had, or is not the file that it was before.
    """
    known = store.get(_KIND, package.file)
    if known and (path := store.find(known["sha256"], known["name"])):
        return path
    expected = known["sha256"] if known else None
    if near := _near(package.file, sources.find_links):
        return _keep(near, package.file, expected, store)
    url, announced = _where(package, sources)
    with tempfile.TemporaryDirectory(prefix="firstlight-") as folder:
        part = Path(folder) / package.file
        _download(url, part, sources)
        if announced and (found := sha256_of(part)) != announced:
            raise StageError(
                f"`{package.file}` is not the file that {package.community} announces: sha256 is `{found}`, announced is `{announced}`",
                hint="run again; when it stays so, somebody between changes files, or the file was replaced",
            )
        return _keep(part, package.file, expected, store)


def _where(package: FlashAttnPackage, sources: Sources) -> tuple[str, str | None]:
    """The wheel's address, and its hash where one is announced."""
    if package.community:
        return find_released(package.community, package.file, sources.settings)
    if package.url:
        return package.url, None
    raise StageError(f"`{package.file}` is published nowhere", hint="name a builder: firstlight_builder: controller")


def _keep(source: Path, name: str, expected: str | None, store: Store) -> Path:
    found = sha256_of(source)
    if expected and found != expected:
        raise StageError(
            f"`{name}` is another file than before: sha256 is `{found}`, it was `{expected}`",
            hint=f"when that change is meant, remove {store.root / _KIND / f'{name}.json'}",
        )
    path = store.add(source, name=_own_name(name, read_extension(source, published_as=name)), sha256=found)
    store.put(_KIND, name, {"sha256": found, "name": path.name})
    return path


def _own_name(name: str, extension: Extension) -> str:
    distribution, _, tags = name.split("-", 2)
    return f"{distribution}-{extension.own_version}-{tags}"


def _near(name: str, places: Sequence[str]) -> Path | None:
    for place in places:
        folder = local_path(place)
        if folder and (folder / name).is_file():
            return folder / name
    return None


def _download(url: str, target: Path, sources: Sources) -> None:
    import httpx  # noqa: PLC0415 (only where a published wheel is fetched)

    try:
        with open_client(sources.settings) as client, client.stream("GET", url) as answer, target.open("wb") as file:
            answer.raise_for_status()
            for block in answer.iter_raw():
                file.write(block)
    except httpx.HTTPStatusError as error:
        problem = f"HTTP {error.response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = without_credentials(str(error)) or type(error).__name__
    except OSError as error:
        problem = f"`{target.parent}` cannot take it: {error.strerror}"
    else:
        return
    raise StageError(
        f"`{target.name}` could not be fetched from {urlsplit(url).hostname}: {problem}",
        hint="put that file into a folder that is among your find-links settings, or name a builder: firstlight_builder: controller",
    )
