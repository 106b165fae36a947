"""Lock a Stack: find where its fixed builds are, have uv solve the rest, choose the wheels, fetch them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from provision.catalog.index.http_client import open_client
from provision.catalog.index.local_path import local_path
from provision.catalog.index.project_page import IndexFile, Place, ProjectPage
from provision.catalog.index.settings import ClientSettings
from provision.catalog.index.sources import Sources
from provision.core.errors import IndexUnreachableError, StageError
from provision.core.models.stack import Stack
from provision.phases.stage.download import Arrived, Progress, fetch_all
from provision.phases.stage.local_wheels import OwnSource, build
from provision.phases.stage.lock import Locked
from provision.phases.stage.platforms import Target
from provision.phases.stage.prefetch import EarlyFetch
from provision.phases.stage.release_time import held_back, solve_dated, tells_times
from provision.phases.stage.solve_request import (
    Build,
    Request,
    Source,
    brings_torch,
    builds_of,
    choose_places,
    companions_of,
    make_request,
    target_of,
)
from provision.phases.stage.variants import Foreign, foreign_by_version
from provision.phases.stage.wheel_choice import choose_wheels
from provision.phases.stage.wheelhouse import Store


@dataclass(frozen=True)
class Solved:
    """The wheels of an environment, and those that were refused on the way."""

    wheels: list[Locked]
    refused: tuple[Foreign, ...] = ()
    notes: tuple[str, ...] = ()
    """What is to be said of how they were found."""


def lock_stack(
    stack: Stack,
    own: Iterable[OwnSource],
    sources: Sources,
    store: Store,
    extra: Iterable[str] = (),
    *,
    early: EarlyFetch | None = None,
    refused: Sequence[Foreign] = (),
) -> Solved:
    """Every wheel of the Stack's environment; our own are built and stored already. `extra` are further requirements.

    `early` fetches the fixed builds while uv solves the rest. A wheel whose version names another platform than planned is refused, as those
    of `refused` are, and the rest is solved without it. Raises StageError when a build is nowhere to be had, when uv refuses, or when no wheel fits.
    """
    target = target_of(stack)
    found = _place_builds(builds_of(stack), sources, target)
    companions = _place_companions(stack, found["torch"].place if "torch" in found else None, sources, target)
    if early:
        early.begin(lambda: _files_of(builds_of(stack), found, sources, target))
    with ThreadPoolExecutor() as pool:
        built = list(pool.map(lambda source: build(source, store), own))
    ours = [f"{wheel.distribution} @ {store.path(wheel.sha256, wheel.name).as_uri()}" for wheel in built]
    request = make_request(stack, target, found, companions, [*ours, *extra])
    if request.until and not tells_times(stack, sources.indexes, sources.directory):
        request = replace(request, until=None)
    left_out = tuple(refused)
    while True:
        try:
            pylock, dated = solve_dated(_without(request, left_out, builds_of(stack), sources), sources.variables)
        except StageError as error:
            if left_out:
                raise StageError(
                    f"{'; '.join(item.text for item in left_out)}; without: {error.text}", hint=error.hint
                ) from error
            raise
        wheels = choose_wheels(pylock, target, own=[wheel.distribution for wheel in built])
        foreign = foreign_by_version(stack, wheels)
        if not foreign:
            return Solved([*wheels, *built], left_out, tuple(held_back(stack, dated, wheels)))
        if again := next((item for item in foreign if item in left_out), None):
            raise StageError(f"{again.text}, and uv takes no other")
        left_out += tuple(foreign)


def fetch_wheels(
    locked: Iterable[Locked],
    settings: ClientSettings,
    indexes: Iterable[str],
    store: Store,
    *,
    progress: Progress | None = None,
    arrived: Arrived | None = None,
) -> dict[str, Path]:
    """Every wheel's path in the wheelhouse by its hash, fetched where it is missing.

    Raises StageError when a file cannot be had or is not the one that was locked.
    """
    foreign = [file for file in locked if file.url]
    return fetch_all(store, foreign, lambda: open_client(settings, indexes), progress=progress, arrived=arrived)


def unpacked_size(wheels: Iterable[Path]) -> int:
    """Bytes that the wheels' files take once installed, byte code not counted."""
    total = 0
    for path in wheels:
        with zipfile.ZipFile(path) as archive:
            total += sum(entry.file_size for entry in archive.infolist())
    return total


def _place_builds(builds: list[Build], sources: Sources, target: Target) -> dict[str, Source]:
    fixed = [build for build in builds if build.vendor]
    flat = [Place(url, flat=True) for url in sources.find_links]
    near = [place for place in flat if local_path(place.url)]
    indexes = [Place(url) for url in sources.indexes]
    far = [place for place in flat if place not in near] + indexes
    listings = {build.name: sources.directory.list_all((place, build.name) for place in near) for build in fixed}
    unseen = [build for build in fixed if not _holds(listings[build.name], build, target)]
    # uv asks the indexes for the others: one that does not answer is found out here, once and with a short limit.
    others = [(place, build.name) for build in builds if not build.vendor for place in indexes]
    wanted = [(place, build.name) for build in unseen for place in (*far, Place(build.vendor or ""))]
    answers = sources.directory.list_all([*others, *wanted])
    for (_, name), listing in zip(wanted, answers[len(others) :], strict=True):
        listings[name].append(listing)
    found = choose_places(fixed, listings, target)
    silent = {listing.place.label: listing.problem for listing in answers[: len(others)] if listing.problem}
    if others and not flat and len(silent) == len(indexes):
        raise IndexUnreachableError(silent, [f"{build.name} {build.version}" for build in builds if not build.vendor])
    return found


def _without(request: Request, refused: Sequence[Foreign], builds: Sequence[Build], sources: Sources) -> Request:
    """The request that cannot bring these wheels again.

    Where the version tells them apart, it is excluded. Else the package is bound to the next index that has another wheel of that version:
    uv then takes it from no find-links place either.
    """
    constraints = [f"{item.wheel.distribution}!={item.wheel.version}" for item in refused if item.by_version]
    pins = dict(request.pins)
    for item in refused:
        if item.by_version:
            continue
        name, version = item.wheel.distribution, Version(item.wheel.version)
        vendors = [build.vendor for build in builds if build.vendor and canonicalize_name(build.name) == name]
        places = [Place(url) for url in dict.fromkeys([*sources.indexes, *vendors])]
        known = {one.wheel.sha256 for one in refused}
        for listing in sources.directory.list_all((place, name) for place in places):
            offer = listing.best(name, version, request.target.tags())
            if offer and offer.sha256 not in known:
                pins[name] = listing.place.url
                break
        else:
            raise StageError(
                f"{item.text}, and no other index has a wheel of {name} {version} that fits",
                hint="add an index that has it to your pip or uv settings, or take that file out of its place",
            )
    return replace(request, pins=tuple(sorted(pins.items())), constraints=(*request.constraints, *constraints))


def _files_of(builds: list[Build], found: Mapping[str, Source], sources: Sources, target: Target) -> list[IndexFile]:
    """The wheel of each build where just one place can be meant, and that place tells its hash; uv may still choose another."""
    tags, files = target.tags(), []
    for fixed in builds:
        source = found.get(fixed.name)
        places = [source.place] if source else [Place(url) for url in sources.indexes]
        version = source.version if source else Version(fixed.version)
        listings = sources.directory.list_all((place, fixed.name) for place in places)
        offers = [offer for listing in listings if (offer := listing.best(fixed.name, version, tags))]
        if len(offers) == 1 and offers[0].sha256:
            files += offers
    return files


def _holds(listings: list[ProjectPage], build: Build, target: Target) -> bool:
    return any(
        build.fits(version, listing.place)
        for listing in listings
        for version in listing.versions(build.name, target.tags())
    )


def _place_companions(stack: Stack, torch: Place | None, sources: Sources, target: Target) -> dict[str, bool]:
    """Whether the index that torch comes from has each companion for this variant.

    uv cannot be bound to a find-links place, so companions are taken from indexes alone.
    """
    names = companions_of(stack)
    if torch is None or torch.flat:
        return dict.fromkeys(names, False)
    listings = sources.directory.list_all((torch, name) for name in names)
    tags = target.tags()
    return {
        name: any(
            version.local == stack.torch.variant or brings_torch(stack) for version in listing.versions(name, tags)
        )
        for name, listing in zip(names, listings, strict=True)
    }
