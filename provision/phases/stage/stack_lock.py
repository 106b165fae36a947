"""The lock of a Stack: locate its pinned builds, solve the rest with uv, choose the wheels, fetch them.

Two builds of one release differ at most in the local version (`2.13.0` and `2.13.0+cpu`), and the requirement `==2.13.0`
accepts both. So each pinned wheel is compared with the plan twice: its version before it is fetched, then its content.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import canonicalize_name

from provision.catalog.index.http_client import open_client
from provision.catalog.index.project_page import IndexLocation, IndexSources, ProjectPage
from provision.catalog.index.settings import without_credentials
from provision.core.errors import IndexUnreachableError, StageError
from provision.core.models.stack import Stack
from provision.core.tables import own_table
from provision.core.user_path import local_path
from provision.phases.stage.download import OnStored, Progress, fetch_all
from provision.phases.stage.local_wheels import build_local_wheel, local_sources
from provision.phases.stage.solve import (
    LocatedBuild,
    LockedWheel,
    PinnedBuild,
    SolveRequest,
    Target,
    brings_torch,
    builds_of,
    choose_wheels,
    companions_of,
    make_request,
    solve,
    target_of,
)
from provision.phases.stage.wheelhouse import Store

_LOCAL = re.compile(r"(?:cpu|xpu|cu\d+|rocm\d[\d.]*)")
_VERSION_FILE = re.compile(r"[^/]+/_?version\.py")
_NAMED = re.compile(r"^__version__\b[^\n]*?['\"]([^'\"\n]+)['\"]", re.MULTILINE)
_TOOLKIT = re.compile(r"^(cuda|hip)\b[^\n=]*= *(?:None|['\"]([^'\"\n]+)['\"]) *$", re.MULTILINE)


@dataclass(frozen=True)
class Solved:
    """The wheels of an environment."""

    wheels: list[LockedWheel]
    notes: tuple[str, ...] = ()
    """Notes for the report on how the wheels were found."""


def lock_stack(stack: Stack, sources: IndexSources, store: Store, extra: Iterable[str] = ()) -> Solved:
    """Choose every wheel of a Stack's environment.

    A wheel whose version names another platform than planned is refused, and the rest is solved without it.

    Args:
        extra: Further requirements.

    Raises:
        StageError: A build cannot be found, uv refuses, or no wheel fits.
    """
    target = target_of(stack)
    found = _place_builds(builds_of(stack), sources, target)
    companions = _place_companions(stack, found["torch"].location if "torch" in found else None, sources, target)
    with ThreadPoolExecutor() as pool:
        own = pool.map(lambda source: build_local_wheel(source, store), local_sources(stack))
        built = [*own, *_given(stack, store)]
    local = [f"{wheel.distribution} @ {store.path(wheel.sha256, wheel.name).as_uri()}" for wheel in built]
    request = make_request(stack, target, found, companions, [*local, *extra])
    refused: dict[str, str] = {}
    while True:
        limited = replace(request, constraints=(*request.constraints, *refused))
        try:
            pylock, dated = _solve_dated(limited, sources.variables)
        except StageError as error:
            if not refused:
                raise
            raise StageError(f"{'; '.join(refused.values())}; without: {error.text}", hint=error.hint) from error
        wheels = choose_wheels(pylock, target, own=[wheel.distribution for wheel in built])
        wrong = _of_other_platforms(stack, wheels, lambda wheel: named_platform(wheel.version))
        if not wrong:
            others = (f"{text}: another build was chosen" for text in refused.values())
            return Solved([*wheels, *built], (*_explain_age_limits(stack, dated, wheels), *others))
        refused |= wrong


def _given(stack: Stack, store: Store) -> Iterator[LockedWheel]:
    """Yield the wheel of vLLM that the settings name. Raises StageError where it is no longer in the wheelhouse."""
    if stack.vllm is None or (wheel := stack.vllm.wheel) is None:
        return
    if (path := store.find(wheel.sha256, wheel.name)) is None:
        raise StageError(f"`{wheel.name}` is no longer in the wheelhouse `{store.root}`", hint="run the command again")
    size = path.stat().st_size
    yield LockedWheel(stack.vllm.distribution, wheel.version, wheel.name, wheel.sha256, wheel.url, size)


def fetch_wheels(
    locked: Iterable[LockedWheel],
    sources: IndexSources,
    store: Store,
    *,
    progress: Progress | None = None,
    on_stored: OnStored = lambda _path: None,
) -> dict[str, Path]:
    """Fetch wheels that the wheelhouse lacks; return the path of every wheel by its hash. Raises StageError."""
    remote = [wheel for wheel in locked if wheel.url]
    return fetch_all(
        store, remote, partial(open_client, sources.settings, sources.indexes), progress=progress, on_stored=on_stored
    )


def unpacked_size(wheels: Iterable[Path]) -> int:
    """Return the bytes of the installed wheels without byte code."""
    total = 0
    for path in wheels:
        with zipfile.ZipFile(path) as archive:
            total += sum(entry.file_size for entry in archive.infolist())
    return total


def _place_builds(builds: list[PinnedBuild], sources: IndexSources, target: Target) -> dict[str, LocatedBuild]:
    """Choose the first location of each vendor build: local folders, others, the vendor's index. Raises StageError."""
    client, tags = sources.index_client, target.tags()
    flat = [IndexLocation(url, flat=True) for url in sources.find_links]
    near = [location for location in flat if local_path(location.url)]
    indexes = [IndexLocation(url) for url in sources.indexes]
    found: dict[str, LocatedBuild] = {}
    silent: dict[str, str] = {}
    for build in (build for build in builds if build.vendor):
        pages = client.fetch_pages((location, build.name) for location in near)
        source = _locate(build, pages, tags)
        if source is None:
            far = (
                *(location for location in flat if location not in near),
                *indexes,
                IndexLocation(build.vendor or ""),
            )
            pages += client.fetch_pages((location, build.name) for location in far)
            source = _locate(build, pages, tags)
        if source:
            found[build.name] = source
        elif problems := _problems(pages):
            silent |= problems
        else:
            locations = ", ".join(page.location.label for page in pages)
            raise StageError(
                f"none of {locations} has {build.name} {build.version} as a wheel for {target.wheel_tag}",
                hint="add an index or find-links folder that has it to your pip or uv settings",
                cause="wrong-index",
            )
    unknown = [build for build in builds if build.vendor and build.name not in found]
    others = [build for build in builds if not build.vendor]
    if not unknown and others and not flat:
        # uv queries the indexes for these builds. Query them here too: a silent index is detected with a short timeout.
        asked = client.fetch_pages((location, build.name) for build in others for location in indexes)
        silent = _problems(asked)
        unknown = others if len(silent) == len(indexes) else []
    if unknown:
        raise IndexUnreachableError(silent, [f"{build.name} {build.version}" for build in unknown])
    return found


def _locate(build: PinnedBuild, pages: Iterable[ProjectPage], tags: Sequence[Tag]) -> LocatedBuild | None:
    """Return the first location of a build with a wheel that fits."""
    for page in pages:
        if fitting := [version for version in page.versions(build.name, tags) if build.fits(version, page.location)]:
            return LocatedBuild(page.location, max(fitting))
    return None


def _problems(pages: Iterable[ProjectPage]) -> dict[str, str]:
    return {page.location.label: page.problem for page in pages if page.problem}


def _place_companions(
    stack: Stack, torch: IndexLocation | None, sources: IndexSources, target: Target
) -> dict[str, bool]:
    """Check for each companion whether torch's index has a build of this variant.

    uv cannot bind a package to find-links, so companions come from indexes alone.
    """
    names = companions_of(stack)
    if torch is None or torch.flat:
        return dict.fromkeys(names, False)
    pages = sources.index_client.fetch_pages((torch, name) for name in names)
    tags = target.tags()
    return {
        name: any(version.local == stack.torch.variant or brings_torch(stack) for version in page.versions(name, tags))
        for name, page in zip(names, pages, strict=True)
    }


def _solve_dated(request: SolveRequest, variables: Mapping[str, str]) -> tuple[str, SolveRequest]:
    """Solve with the age limit, and without it where uv refuses; return uv's lock, and the request that it answers.

    uv treats a file without an upload time as too new. Where an index has no upload times, its files are missing from the
    solution, so the limit cannot hold.
    """
    if request.until:
        try:
            return solve(request, variables), request
        except StageError:
            request = replace(request, until=None)
    return solve(request, variables), request


def _explain_age_limits(stack: Stack, request: SolveRequest, wheels: Sequence[LockedWheel]) -> Iterator[str]:
    """Yield one sentence on why dependencies are older than the newest; nothing for a release without limits."""
    if stack.vllm is None or stack.dependencies is None or stack.dependencies.until is None:
        return
    subject = f"the dependencies of vLLM {stack.vllm.version} are limited"
    if request.until:
        yield f"{subject} to files uploaded until {request.until}"
        return
    locked = {canonicalize_name(wheel.distribution): wheel.version for wheel in wheels}
    bounds = [Requirement(text) for text in stack.dependencies.bounds]
    used = [f"{bound} ({locked[name]})" for bound in bounds if (name := canonicalize_name(bound.name)) in locked]
    yield f"{subject} by the catalog's bounds, because upload times are unknown: {', '.join(used) or 'none applies'}"


def wrong_platform(stack: Stack, wheels: Iterable[LockedWheel], paths: Mapping[str, Path]) -> StageError | None:
    """Return why the content of fetched wheels, at `paths` by hash, is for another platform than planned; None where it is not."""
    fetched = (wheel for wheel in wheels if wheel.url)
    wrong = _of_other_platforms(stack, fetched, lambda wheel: platform_inside(paths[wheel.sha256]))
    hint = "remove that file from its index or folder, or list an index with the planned build before it"
    return StageError("; ".join(wrong.values()), hint=hint) if wrong else None


def _of_other_platforms(
    stack: Stack, wheels: Iterable[LockedWheel], platform_of: Callable[[LockedWheel], str | None]
) -> dict[str, str]:
    """Return why wheels are for another platform than planned, by the constraint that excludes each."""
    planned = _planned(stack)
    found: dict[str, str] = {}
    for wheel in wheels:
        variant = planned.get(canonicalize_name(wheel.distribution))
        platform = platform_of(wheel) if variant else None
        if variant and platform and not _matches(platform, variant):
            source = without_credentials(wheel.url.rpartition("/")[0])
            text = f"`{wheel.name}` from {source} is built for {platform}, not for {variant}"
            found[f"{wheel.distribution}!={wheel.version}"] = text
    return found


def _planned(stack: Stack) -> dict[str, str]:
    """Return the variant of each pinned distribution, by normalized name."""
    fixed = {build.name: build.variant for build in builds_of(stack)}
    if stack.torch_stands_in:
        # Any build of torch runs on a CPU.
        fixed.pop("torch", None)
    else:
        fixed |= dict.fromkeys(companions_of(stack), stack.torch.variant)
    return {canonicalize_name(name): variant for name, variant in fixed.items()}


def named_platform(version: str) -> str | None:
    """Return `cpu`, `cu130` or `rocm7.0` from a version's local part; None where it has none."""
    match = _LOCAL.match(version.partition("+")[2])
    return match[0].rstrip(".") if match else None


def platform_inside(wheel: Path) -> str | None:
    """Return the platform from a wheel's version file, else from its file names; None where both are silent.

    A release without a local part may come from any index; torch's default wheel then has `2.13.0+cu130` and `cuda = '13.0'` inside.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = archive.namelist()
        for member in filter(_VERSION_FILE.fullmatch, members):
            if platform := _platform_of(archive.read(member).decode(errors="replace")):
                return platform
    rows: list[dict[str, str]] = own_table(Path(__file__).with_name("variants.toml"))["inside"]
    return next((row["platform"] for row in rows if any(map(re.compile(row["member"]).match, members))), None)


def _platform_of(text: str) -> str | None:
    toolkits = dict(_TOOLKIT.findall(text))
    for name, release in toolkits.items():
        if release:
            major_minor = release.split(".")[:2]
            return "rocm" + ".".join(major_minor) if name == "hip" else "cu" + "".join(major_minor)
    if {"cuda", "hip"} <= toolkits.keys():
        return "cpu"
    named = _NAMED.search(text)
    return named_platform(named[1]) if named else None


def _matches(found: str, planned: str) -> bool:
    """Compare two platform names. `rocm7.0` equals `rocm700`, and `cu13` may be `cu130`."""
    one, other = (name.replace(".", "") for name in (found, planned))
    return one.startswith(other) or other.startswith(one)
