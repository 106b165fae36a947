"""Candidates in the order of their evaluation: a vLLM build with the torch it pins, newest release first."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from provision.catalog import catalog
from provision.catalog.rows.builds import Build, Proven, Release, Torch
from provision.catalog.versions import between, newest_first, numbers, platform_of
from provision.core.models.stack import DependencyPlan, WheelFile
from provision.core.tables import own_table
from provision.phases.plan import torch_pair
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.policy import LATEST, GivenWheel

TORCH_INDEX = "https://download.pytorch.org/whl/{variant}"


@dataclass(frozen=True, eq=False)
class BuildOption:
    """One candidate. `release` and `build` are None if the plan has no vLLM."""

    id: str
    torch: Torch
    torch_variant: str
    release: Release | None = None
    build: Build | None = None
    wheel: WheelFile | None = None
    """The wheel that the settings name; None for a build of the tables."""

    @property
    def variant(self) -> str:
        """Return the variant of the Stack: the build's, else torch's."""
        return self.build.variant if self.build else self.torch_variant

    def torch_index(self, machine: str) -> str | None:
        """Return the index of torch; None for the default package index."""
        return (
            None
            if self.torch_variant == self.torch.default(machine)
            else TORCH_INDEX.format(variant=self.torch_variant)
        )

    def index_hosts(self, machine: str | None) -> frozenset[str]:
        """Return the hosts of the vendors' indexes for vLLM and torch; empty if the default package index has both."""
        indexes = (self.build.index if self.build else None, self.torch_index(machine or "x86_64"))
        return frozenset(urlsplit(index).netloc for index in indexes if index)


def options(profile: HostProfile) -> Iterator[BuildOption]:
    """Yield all candidates for a class, best first: newer release, then the vLLM project's build, then the newer CUDA.

    With `--vllm latest`, sets that were tried come before all others.
    """
    if not profile.policy.wants_vllm:
        for torch in newest_first(row for row in catalog().torches if profile.policy.wants_torch(row.version)):
            for variant in torch_pair.alone(profile, torch):
                yield BuildOption(f"torch-{torch.version}-{variant}", torch, variant)
        return
    found = [option for row, build in _wanted(profile) for option in _with_torch(profile, row, build)]
    if profile.policy.vllm == LATEST:
        found.sort(key=lambda option: proof(option, profile.machine) is None)
    yield from found
    if profile.platform == "cpu" and profile.policy.torch == "managed" and profile.policy.torch_version is None:
        yield from _with_stand_in(profile)


def _wanted(profile: HostProfile) -> Iterator[tuple[Release, Build]]:
    """Yield the builds of the wanted releases for the platform, newest release first; of a given wheel, that build alone."""
    if given := profile.given:
        if platform_of(given.build.variant) == profile.platform:
            yield given.release, given.build
        return
    for row in newest_first(catalog().releases):
        if profile.policy.wants_release(row.version):
            yield from ((row, build) for build in _builds(row, profile.platform))


def proof(option: BuildOption, machine: str | None) -> Proven | None:
    """Return how a candidate was tried on such a machine (x86_64 where it is unknown); None if it was not."""
    return _proven().get((option.id, machine or "x86_64"))


@cache
def _proven() -> dict[tuple[str, str], Proven]:
    return {(row.set, row.machine): row for row in catalog().proven}


def _with_torch(profile: HostProfile, row: Release, build: Build) -> Iterator[BuildOption]:
    torch = _torches().get(build.torch or row.torch)
    if torch is None or not profile.policy.wants_torch(torch.version):
        return
    for variant in torch_pair.variants(profile, torch, build.variant):
        yield _option(row, build, torch, variant, profile.given)


def _with_stand_in(profile: HostProfile) -> Iterator[BuildOption]:
    """Yield CPU builds with the default index's torch, a CUDA build. They rank after all candidates with torch's CPU build."""
    for stand_in in catalog().torch_stand_ins:
        if stand_in.machine != (profile.machine or "x86_64"):
            continue
        for row, build in _wanted(profile):
            same = row.version == stand_in.version or profile.given
            if same and build.provider == stand_in.provider and (build.torch or row.torch) == stand_in.torch:
                yield _option(row, build, _torches()[stand_in.torch], stand_in.variant, profile.given)


def _option(row: Release, build: Build, torch: Torch, variant: str, given: GivenWheel | None) -> BuildOption:
    name = f"vllm-{row.version}-{build.variant}"
    if given:
        name += f"-wheel-{given.file.sha256[:8]}"
    if build.provider == "community":
        name += "-community"
    if variant != build.variant:
        name += f"-torch-{variant}"
    return BuildOption(name, torch, variant, row, build, given.file if given else None)


@cache
def _torches() -> dict[str, Torch]:
    return {row.version: row for row in catalog().torches}


def _builds(row: Release, platform: str) -> list[Build]:
    """Return the builds of one release for a platform: the default wheel, the project's others, then the community's."""
    default = Build(
        version=row.version,
        variant=f"cu{row.cuda.replace('.', '')}",
        provider="official",
        distribution="vllm",
        glibc=row.glibc,
        machines=row.machines,
        source=row.source,
    )
    others = [build for build in catalog().builds if build.version == row.version]
    ordered = (default, *sorted(others, key=lambda build: (build.provider != "official", build.variant)))
    return [build for build in ordered if platform_of(build.variant) == platform]


def dependencies_of(option: BuildOption) -> DependencyPlan | None:
    """Return the bounds of a candidate's dependencies; None without vLLM."""
    if option.release is None:
        return None
    oldest, until = catalog().releases[0].version, _horizon(option.release.date)
    ranges = [row for row in catalog().bounds if between(option.release.version, row.since or oldest, row.until)]
    bounds = [f"{row.distribution}{row.specifier}" for row in ranges] + (_too_new(until) if until else [])
    return DependencyPlan(until=until, bounds=tuple(sorted(bounds)))


def _horizon(released: str | None) -> str | None:
    """Return the last upload day for dependencies; None for the newest releases and for an unknown release date."""
    newest = max(row.date for row in catalog().releases if row.date)
    table = catalog().horizon
    if released is None or (date.fromisoformat(newest) - date.fromisoformat(released)).days <= table.current_days:
        return None
    return (date.fromisoformat(released) + timedelta(days=table.margin_days)).isoformat()


@cache
def _too_new(until: str) -> list[str]:
    """Return for each dependency the first release that was uploaded after that day, as an upper bound."""
    found = []
    for row in catalog().timelines:
        entries = (entry.partition(" ") for entry in row.releases)
        later = next((version for day, _, version in entries if day > until), None)
        if later:
            found.append(f"{row.distribution}<{later}")
    return found


def tracing_of(option: BuildOption) -> tuple[str, ...]:
    """Return the requirements with which a release sends traces; none if vLLM brings them."""
    table = own_table(Path(__file__).with_name("tracing.toml"))
    if option.release is None or numbers(option.release.version) >= numbers(table["bundled_since"]):
        return ()
    return tuple(table["requirements"])
