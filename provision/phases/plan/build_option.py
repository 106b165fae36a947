"""Candidates in the order of their evaluation: a vLLM build with a variant of the torch it pins, newest release first; their further requirements."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from provision.catalog import catalog
from provision.catalog.rows.builds import Build, Proven, Release, Torch
from provision.catalog.versions import between, cuda_of, newest_first, numbers, platform_of, within
from provision.core.models.stack import DependencyPlan, WheelFile
from provision.core.tables import own_table
from provision.phases.plan.cards import Coverage, coverage
from provision.phases.plan.host_profile import HostProfile, Platform
from provision.phases.plan.policy import LATEST, NEWEST, GivenWheel

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
        is_default = self.torch_variant == self.torch.default(machine)
        return None if is_default else TORCH_INDEX.format(variant=self.torch_variant)

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
            for variant in torch_alone(profile, torch):
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
    wanted = profile.policy.vllm
    for row in newest_first(catalog().releases):
        if wanted in (LATEST, NEWEST) or within(row.version, wanted):
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
    for variant in torch_variants(profile, torch, build.variant):
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
    # Rows of `catalog refresh` do not count: they would limit dependencies of releases that hosts serve already.
    newest = max(row.date for row in catalog().releases if row.date and not row.inferred)
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


KEPT = 2
"""Variants for each build: a second one in case no index has the first."""


def torch_variants(profile: HostProfile, torch: Torch, build: str) -> tuple[str, ...]:
    """Return the variants of torch for a vLLM build, all of its CUDA major.

    Known pairs are the build's CUDA minor and the variant that its pin selects on the default index. Others are used only if
    neither has code for every card. Ranking: what the driver runs without compatibility mode, then the build's CUDA minor.
    """
    if profile.policy.torch == "existing":
        return existing_torch(profile, torch)
    if build == "cpu" or build.startswith("rocm"):
        return (build,)
    major = numbers(cuda_of(build) or "")[0]
    same = [name for name in offered_torch(profile.machine, torch) if numbers(cuda_of(name) or "0")[0] == major]
    default = torch.default(profile.machine)
    known = [name for name in same if name in {build, default}]
    if any(covers(profile, torch, name) for name in known):
        same = known
    return _ranked(profile, torch, same, preferred=(build, default))[:KEPT] or (build,)


def _ranked(
    profile: HostProfile, torch: Torch, found: Iterable[str], *, preferred: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return CUDA variants, best first: those with code for every card that the driver runs, then the preferred, then the newer CUDA."""

    def worth(variant: str) -> tuple[Any, ...]:
        driver = profile.driver
        major = numbers(cuda_of(variant) or "0")[0]
        floor = next((row.driver for row in catalog().cuda_majors if row.major == major), None)
        served = (covers(profile, torch, variant), _reaches(driver, floor), runs_natively(driver, variant))
        return (*served, *(variant == name for name in preferred), numbers(cuda_of(variant) or "0"))

    return tuple(sorted(found, key=worth, reverse=True))


def existing_torch(profile: HostProfile, torch: Torch) -> tuple[str, ...]:
    """Return the variants of a release in the host's Pythons."""
    present = (
        split_torch(python.torch)
        for python in profile.usable_pythons
        if python.torch and unfit_torch(python.torch, profile.platform) is None
    )
    return tuple(dict.fromkeys(variant for version, variant in present if version == torch.version))


def unfit_torch(installed: str, platform: Platform) -> str | None:
    """Return why a Stack cannot use a torch of the host, by its version string and the host's devices; None if it can."""
    version, _, local = installed.partition("+")
    released = re.fullmatch(r"[\d.]+(\.post\d+)?", version) and (not local or _is_variant(local))
    if not released:
        return "is a third-party or pre-release build, and vLLM's wheels need a torch release"
    variant = split_torch(installed)[1]
    if platform == "cuda" and not cuda_of(variant):
        return "is not a CUDA variant, and the host has NVIDIA GPUs"
    if platform == "rocm" and not variant.startswith("rocm"):
        return "is not a ROCm variant, and the host has AMD GPUs"
    return None


def split_torch(installed: str) -> tuple[str, str]:
    """Return release and variant of a torch version string such as `2.7.0+cu126`; without a variant, `cpu`."""
    version, _, variant = installed.partition("+")
    return version, variant if _is_variant(variant) else "cpu"


def _is_variant(local: str) -> bool:
    return local == "cpu" or bool(cuda_of(local)) or local.startswith("rocm")


def torch_alone(profile: HostProfile, torch: Torch) -> tuple[str, ...]:
    """Return the variants of torch for a Stack without vLLM."""
    if profile.policy.torch == "existing":
        return existing_torch(profile, torch)
    if profile.platform == "cpu":
        return ("cpu",)
    if profile.platform == "rocm":
        installed = numbers(profile.rocm or "")[:2]
        return tuple(name for name in reversed(torch.rocm) if installed in {(), numbers(name)[:2]})[:1]
    driver, offer = profile.driver, catalog().driver_offer.version
    if profile.driver_absent or (driver and not profile.driver_stays and numbers(driver) < numbers(offer)):
        profile = replace(profile, driver=offer)
    return _ranked(profile, torch, offered_torch(profile.machine, torch))[:KEPT]


def offered_torch(machine: str | None, torch: Torch) -> tuple[str, ...]:
    """Return the CUDA variants of a torch release for the host's architecture."""
    return torch.cuda_aarch64 if machine == "aarch64" else torch.cuda


def covers(profile: HostProfile, torch: Torch, variant: str) -> bool:
    """Return whether a variant has code for every card; True if the table does not list it."""
    codes = torch_codes(torch.version, variant, profile.machine)
    return codes is None or all(coverage(codes, capability) is not Coverage.NONE for capability in profile.capabilities)


def torch_codes(version: str, variant: str, machine: str | None) -> tuple[str, ...] | None:
    """Return the GPU code in a CUDA variant of torch for an architecture; None if the table does not list it."""
    for row in catalog().torch_archs:
        if row.variant == variant and between(version, row.since, row.until):
            return (row.codes_aarch64 or None) if machine == "aarch64" else row.codes
    return None


def _reaches(driver: str | None, floor: str | None) -> bool:
    return driver is None or floor is None or numbers(driver) >= numbers(floor)


def runs_natively(driver: str | None, variant: str) -> bool:
    """Return whether a driver has the variant's CUDA or a newer one; True if the driver is unknown."""
    return _reaches(driver, native_floor(cuda_of(variant) or ""))


def native_floor(cuda: str) -> str | None:
    """Return the lowest driver that runs all output of a CUDA toolkit, PTX included."""
    return next((row.driver for row in catalog().toolkits if row.version == cuda), None)
