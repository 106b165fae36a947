"""The variants of a torch release for a build, best first."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from provision.catalog import catalog
from provision.catalog.rows.builds import Torch
from provision.catalog.versions import between, cuda_of, numbers
from provision.phases.plan.cards import Coverage, coverage
from provision.phases.plan.host_profile import HostProfile, Platform

KEPT = 2
"""Variants for each build: a second one in case no index has the first."""


def variants(profile: HostProfile, torch: Torch, build: str) -> tuple[str, ...]:
    """Return the variants of torch for a vLLM build, all of its CUDA major.

    Known pairs are the build's CUDA minor and the variant that its pin selects on the default index. Others are used only if
    neither has code for every card. Ranking: what the driver runs without compatibility mode, then the build's CUDA minor.
    """
    if profile.policy.torch == "existing":
        return existing(profile, torch)
    if build == "cpu" or build.startswith("rocm"):
        return (build,)
    major = numbers(cuda_of(build) or "")[0]
    same = [name for name in offered(profile.machine, torch) if numbers(cuda_of(name) or "0")[0] == major]
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
        served = (covers(profile, torch, variant), runs(driver, variant), runs_natively(driver, variant))
        return (*served, *(variant == name for name in preferred), numbers(cuda_of(variant) or "0"))

    return tuple(sorted(found, key=worth, reverse=True))


def existing(profile: HostProfile, torch: Torch) -> tuple[str, ...]:
    """Return the variants of a release in the host's Pythons."""
    present = (
        split(python.torch)
        for python in profile.usable_pythons
        if python.torch and unfit(python.torch, profile.platform) is None
    )
    return tuple(dict.fromkeys(variant for version, variant in present if version == torch.version))


def unfit(installed: str, platform: Platform) -> str | None:
    """Return why a Stack cannot use a torch of the host, by its version string and the host's devices; None if it can."""
    version, _, local = installed.partition("+")
    released = re.fullmatch(r"[\d.]+(\.post\d+)?", version) and (not local or _is_variant(local))
    if not released:
        return "is a third-party or pre-release build, and vLLM's wheels need a torch release"
    variant = split(installed)[1]
    if platform == "cuda" and not cuda_of(variant):
        return "is not a CUDA variant, and the host has NVIDIA GPUs"
    if platform == "rocm" and not variant.startswith("rocm"):
        return "is not a ROCm variant, and the host has AMD GPUs"
    return None


def split(installed: str) -> tuple[str, str]:
    """Return release and variant of a torch version string such as `2.7.0+cu126`; without a variant, `cpu`."""
    version, _, variant = installed.partition("+")
    return version, variant if _is_variant(variant) else "cpu"


def _is_variant(local: str) -> bool:
    return local == "cpu" or bool(cuda_of(local)) or local.startswith("rocm")


def alone(profile: HostProfile, torch: Torch) -> tuple[str, ...]:
    """Return the variants of torch for a Stack without vLLM."""
    if profile.policy.torch == "existing":
        return existing(profile, torch)
    if profile.platform == "cpu":
        return ("cpu",)
    if profile.platform == "rocm":
        installed = numbers(profile.rocm or "")[:2]
        return tuple(name for name in reversed(torch.rocm) if installed in {(), numbers(name)[:2]})[:1]
    driver, offer = profile.driver, catalog().driver_offer.version
    if profile.driver_absent or (driver and not profile.driver_stays and numbers(driver) < numbers(offer)):
        profile = replace(profile, driver=offer)
    return _ranked(profile, torch, offered(profile.machine, torch))[:KEPT]


def offered(machine: str | None, torch: Torch) -> tuple[str, ...]:
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


def runs(driver: str | None, variant: str) -> bool:
    """Return whether a driver runs builds of the variant's CUDA major; True if the driver is unknown."""
    major = numbers(cuda_of(variant) or "0")[0]
    floor = next((row.driver for row in catalog().cuda_majors if row.major == major), None)
    return driver is None or floor is None or numbers(driver) >= numbers(floor)


def runs_natively(driver: str | None, variant: str) -> bool:
    """Return whether a driver has the variant's CUDA or a newer one; True if the driver is unknown."""
    floor = native_floor(cuda_of(variant) or "")
    return driver is None or floor is None or numbers(driver) >= numbers(floor)


def native_floor(cuda: str) -> str | None:
    """Return the lowest driver that runs all output of a CUDA toolkit, PTX included."""
    return next((row.driver for row in catalog().toolkits if row.version == cuda), None)
