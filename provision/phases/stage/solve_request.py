"""What uv is asked to solve for a Stack: which distributions, from where, for which target."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from packaging.version import Version

from provision.catalog.index.project_page import Place, ProjectPage
from provision.core.errors import IndexUnreachableError, StageError
from provision.core.models.stack import DependencyPlan, Stack
from provision.phases.stage.platforms import Target


@dataclass(frozen=True)
class Build:
    """A distribution whose build is fixed, and the vendor's index that serves it; without one, the user's indexes do."""

    name: str
    version: str
    """With a local part where the requirement must name it (`2.13.0+cpu`)."""
    variant: str
    vendor: str | None

    def fits(self, version: Version, place: Place) -> bool:
        """Whether a found version is this build.

        The vendor's index holds one variant alone, and its file names need not say which; anywhere else the local part must.
        """
        if Version(version.public) != Version(self.version.partition("+")[0]):
            return False
        return version.local == self.variant or (place.url == self.vendor and "+" not in self.version)


@dataclass(frozen=True)
class Request:
    """Requirements, the index each pinned one comes from, and what is left out."""

    target: Target
    requirements: tuple[str, ...]
    pins: tuple[tuple[str, str], ...] = ()
    """(distribution, index address) pairs."""
    excluded: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    """Requirements that hold whatever the distributions say of them."""
    until: str | None = None
    """A day: no file that was uploaded later, but of the distributions that are `undated` or pinned to an index."""
    undated: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Distributions wanted as their source, whose own requirements nobody reads: that would mean to run it."""


def target_of(stack: Stack) -> Target:
    """The Stack's platform and the fullest version known of its Python."""
    known = stack.interpreter.version
    return Target.of(stack.platform, known if known.count(".") == 2 else stack.python)


def builds_of(stack: Stack) -> list[Build]:
    """The fixed ones: vLLM (unless the policy is none), torch (unless the host's own is taken over), and packages of kernels."""
    torch, vllm = stack.torch, stack.vllm
    wanted = torch.version if brings_torch(stack) else _with_variant(torch.version, torch.variant, torch.index)
    builds = [Build("torch", wanted, torch.variant, torch.index)]
    if stack.interpreter.torch:
        builds = []
    if vllm:
        builds.insert(0, Build(vllm.distribution, vllm.version, vllm.variant, vllm.index))
    kernels = stack.flashinfer.packages if stack.flashinfer else ()
    return [*builds, *(Build(item.distribution, item.version, stack.variant, item.index) for item in kernels)]


def brings_torch(stack: Stack) -> bool:
    """Whether torch comes from vLLM's own index, where its local part names a commit (`2.10.0+git8514f05`), not a variant."""
    return stack.vllm is not None and stack.vllm.index is not None and stack.torch.index == stack.vllm.index


def companions_of(stack: Stack) -> list[str]:
    """Distributions that must come from where torch does: from the host, with a torch of its own."""
    return [] if stack.interpreter.torch else list(_companions(stack.variant)["pinned"])


@dataclass(frozen=True)
class Source:
    """Where a fixed build was found, and under which full version."""

    place: Place
    version: Version


def choose_places(
    builds: Sequence[Build], listings: Mapping[str, Sequence[ProjectPage]], target: Target
) -> dict[str, Source]:
    """For each build with a vendor's index, the first place that has it with a wheel that fits, in the order of the listings.

    Raises StageError that names each place when none has it, UnreachableError when a place that may have it told nothing.
    """
    tags = target.tags()
    chosen: dict[str, Source] = {}
    silent: dict[str, str] = {}
    unknown: list[str] = []
    for build in builds:
        if build.vendor is None:
            continue
        for listing in listings[build.name]:
            found = [version for version in listing.versions(build.name, tags) if build.fits(version, listing.place)]
            if found:
                chosen[build.name] = Source(listing.place, max(found))
                break
        else:
            problems = {listing.place.label: listing.problem for listing in listings[build.name] if listing.problem}
            if not problems:
                places = ", ".join(listing.place.label for listing in listings[build.name])
                raise StageError(
                    f"none of {places} has {build.name} {build.version} as a wheel for {target.wheel_tag}",
                    hint="add an index or find-links place that has it to your pip or uv settings",
                    cause="wrong-index",
                )
            silent |= problems
            unknown.append(f"{build.name} {build.version}")
    if unknown:
        raise IndexUnreachableError(silent, unknown)
    return chosen


def make_request(
    stack: Stack,
    target: Target,
    sources: Mapping[str, Source],
    companions: Mapping[str, bool],
    extra: Sequence[str] = (),
) -> Request:
    """Put it together; `companions` says of each whether the place of torch has a build that fits."""
    pins = {name: source.place.url for name, source in sources.items() if not source.place.flat}
    table = _companions(stack.variant)
    requirements = [
        f"{build.name}=={sources[build.name].version if build.name in sources else build.version}"
        for build in builds_of(stack)
    ]
    excluded = list(table["excluded"])
    if stack.interpreter.torch:
        excluded += ["torch", *table["pinned"]]
    for name, found in companions.items():
        if found and "torch" in pins:
            pins[name] = pins["torch"]
            requirements.append(name)
        elif name in table["unless_found"]:
            excluded.append(name)
    if stack.supervisor == "supervisor":
        requirements.append("supervisor")
    # A CPU build of vLLM pins torch's CPU build by its local version.
    overrides = (f"torch=={stack.torch.version}",) if stack.torch_stands_in else ()
    held = stack.dependencies or DependencyPlan()
    return Request(
        target,
        (*requirements, *extra),
        tuple(sorted(pins.items())),
        tuple(excluded),
        constraints=held.bounds,
        overrides=overrides,
        until=held.until,
        undated=tuple(build.name for build in builds_of(stack)),
    )


def _with_variant(version: str, variant: str, index: str | None) -> str:
    return f"{version}+{variant}" if index else version


def _companions(variant: str) -> dict[str, list[str]]:
    table = _table()
    return table.get(variant, table["default"])


@cache
def _table() -> dict[str, dict[str, list[str]]]:
    text = files("provision.phases.stage").joinpath("companions.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
