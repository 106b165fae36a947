"""The wheel builder: provides the package of a Stack as a locked wheel that was checked against its torch."""

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name

from provision.catalog.index.http_client import describe_error, get, open_client
from provision.catalog.index.project_page import IndexSources
from provision.catalog.index.settings import ClientSettings, read_settings
from provision.catalog.versions import cuda_of
from provision.core.errors import StageError
from provision.core.json_text import parse
from provision.core.models.inventory import Connection, Host
from provision.core.models.stack import FlashAttnPackage, Stack
from provision.core.models.staged import StagedFile
from provision.core.scratch import scratch_folder
from provision.core.user_path import local_path
from provision.features.wheel_builder.build import BuildCache, BuildJob, BuiltWheel, build_wheel
from provision.features.wheel_builder.build_host import BuildHost
from provision.features.wheel_builder.recipes import BuildKey, recipe_for
from provision.features.wheel_builder.wheel_check import find_mismatches, find_unmet_requirements
from provision.fleet.inventory import load
from provision.fleet.ssh import Session, open_session
from provision.phases.stage.download import Progress, download
from provision.phases.stage.extension import read_extension
from provision.phases.stage.programs import stage_interpreter
from provision.phases.stage.solve import LockedWheel, Target, target_of
from provision.phases.stage.wheelhouse import Store, sha256_of

CONTROLLER = "controller"
_KIND = "published"
API = "https://api.github.com"
"""Without a login it answers 60 requests an hour. Source: docs.github.com/rest/releases/releases."""
PAGE = 30
"""Releases in one answer, newest first; each lists all of its files."""
MOST_PAGES = 100
"""Limit of pages. A repository with more releases does not publish wheels."""
HINT = "put that file into a find-links folder of your settings, or build it: firstlight_builder: controller"


@dataclass(frozen=True)
class WheelBuilder:
    """Provides packages. `fleet` has every build key of the run, so that one build serves as many classes as it can."""

    store: Store
    open_builder: Callable[[str], Session]
    """Opens a session with a build host by name. Raises StageError for an unknown name."""
    interpreter: Callable[[Target], StagedFile]
    """Fetches a managed Python for a build host without one that has headers."""
    fleet: tuple[BuildKey, ...] = ()

    def requires(self, package: FlashAttnPackage) -> Sequence[str]:
        """Return the package's requirements at run time besides torch; they are solved with the Stack."""
        return recipe_for(BuildKey.of(package)).requires

    def provide(
        self,
        stack: Stack,
        package: FlashAttnPackage,
        wheels: Sequence[LockedWheel],
        sources: IndexSources,
        progress: Progress | None,
    ) -> LockedWheel:
        """Put the wheel of the package into the wheelhouse.

        Raises StageError where the wheel cannot be had, or does not fit this torch, ABI, Python, C library and cards.
        """
        key = BuildKey.of(package)
        recipe, cuda = recipe_for(key), cuda_of(stack.torch.variant) or ""
        job = BuildJob(key, wheels, target_of(stack), cuda, sources, self.store, progress)
        if package.source == "wheel":
            path = _fetch_published(package, sources, self.store)
        else:
            built = self.find_or_build(job, package.builder or CONTROLLER)
            path = self.store.path(built.sha256, built.name)
        extension = read_extension(path, published_as=package.file if package.source == "wheel" else None)
        wrong = find_mismatches(extension, key, torch=job.torch_path, compiled=recipe.compiled)
        locked: dict[str, str] = {canonicalize_name(wheel.distribution): wheel.version for wheel in wheels}
        wrong += find_unmet_requirements(extension, locked, job.target)
        if wrong:
            raise StageError(
                f"`{path.name}` does not fit the plan: {'; '.join(wrong)}",
                hint="build it for this plan: firstlight_builder: controller",
            )
        return LockedWheel(extension.name, extension.own_version, path.name, path.parent.name, "", path.stat().st_size)

    def find_or_build(self, job: BuildJob, builder: str) -> BuiltWheel:
        """Return the wheel from the build cache, else build it for all cards of the fleet that one build can serve."""
        build_cache = BuildCache(self.store)
        if found := build_cache.find(job.key):
            return found
        others = [key for key in self.fleet if recipe_for(job.key).holds(key)]
        wide = replace(job, key=job.key.covering(others))
        with closing(self.open_builder(builder)) as session:
            return build_wheel(wide, self.build_host(builder, session), lambda: self.interpreter(job.target))

    def build_host(self, builder: str, session: Session) -> BuildHost:
        """Return a build host with the folder of its builds and the interpreter of the build program."""
        if builder == CONTROLLER:
            return BuildHost(builder, session, str(self.store.root / "builds" / "work"), python=sys.executable)
        home = session.run('printf %s "${XDG_CACHE_HOME:-$HOME/.cache}"').stdout
        return BuildHost(builder, session, f"{home}/firstlight/builds")


def make_wheel_builder(store: Store, inventory: Path, fleet: tuple[BuildKey, ...] = ()) -> WheelBuilder:
    """Return a wheel builder that can build on this machine and on all hosts of an inventory, whatever the command's limit."""
    return WheelBuilder(store, partial(_open_builder, inventory), partial(_interpreter, store), fleet)


def _open_builder(inventory: Path, name: str) -> Session:
    if name == CONTROLLER:
        connection = Connection(kind="local")
        return open_session(Host.model_construct(name=CONTROLLER, connection=connection))
    # A host with several services is meant by either name.
    hosts = {name: host for host in load(inventory).hosts for name in (host.machine, host.name)}
    if name not in hosts:
        raise StageError(
            f"builder `{name}` is no host of {inventory}",
            hint=f"name one of {', '.join(sorted(hosts))}, or {CONTROLLER}",
        )
    return open_session(hosts[name])


def _interpreter(store: Store, target: Target) -> StagedFile:
    minor = "{}.{}".format(*target.minor)
    return stage_interpreter(replace(target, python=minor), read_settings(), store)[1]


def _fetch_published(package: FlashAttnPackage, sources: IndexSources, store: Store) -> Path:
    """Put a published wheel into the wheelhouse, under the name in its own metadata: uv installs no other.

    It is that of the user's find-links folders, else that at the address in the plan. Authors publish no hashes: that of the
    first download is kept, and later ones must have it too. Raises StageError.
    """
    known = store.get(_KIND, package.file)
    if known and (path := store.find(known["sha256"], known["name"])):
        return path
    expected = known["sha256"] if known else None
    folders = filter(None, map(local_path, sources.find_links))
    if local := next((folder / package.file for folder in folders if (folder / package.file).is_file()), None):
        return _keep(local, package.file, expected, store)
    if package.community:
        url, announced = _find_released(package.community, package.file, sources.settings)
    elif package.url:
        url, announced = package.url, None
    else:
        raise StageError(f"`{package.file}` is not published", hint="build it: firstlight_builder: controller")
    with scratch_folder() as folder, open_client(sources.settings) as client:
        part = folder / package.file
        download(client, url, part, hint=HINT)
        if announced and (found := sha256_of(part)) != announced:
            raise StageError(
                f"`{package.file}` differs from the file on {package.community}: sha256 is `{found}`, announced is `{announced}`",
                hint="run again; if it fails again, a proxy changes files, or the file was replaced",
            )
        return _keep(part, package.file, expected, store)


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


def _find_released(repository: str, file: str, settings: ClientSettings) -> tuple[str, str | None]:
    """Return the address of a file in the newest release that has it, and its sha256 where announced."""
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
