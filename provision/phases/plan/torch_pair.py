"""The variants of a torch release for a build, best first."""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from provision.catalog import catalog
from provision.catalog.rows.builds import Torch
from provision.catalog.versions import between, cuda_of, numbers
from provision.phases.plan import gpu_code
from provision.phases.plan.host_profile import HostProfile, Platform

KEPT = 2
"""Variants for each build: a second one in case no index has the first."""


def variants(profile: HostProfile, torch: Torch, build: str) -> tuple[str, ...]:
    """Return the variants of torch for a vLLM build, all of its CUDA major.

    Known pairs are the build's CUDA minor and the variant that its pin selects on the default index. Others are used only if
    neither has code for every card. Ranking: what the driver runs without compatibility mode, then the build's CUDA minor.
    """
    if build == "cpu" or build.startswith("rocm"):
        return (build,)
    return _cuda_variants(torch, build, profile.machine, profile.driver, profile.capabilities)


@cache
def _cuda_variants(
    torch: Torch, build: str, machine: str | None, driver: str | None, capabilities: tuple[str, ...]
) -> tuple[str, ...]:
    cuda = cuda_of(build) or ""
    same = [variant for variant in offered(machine, torch) if numbers(cuda_of(variant) or "0")[0] == numbers(cuda)[0]]
    default = torch.default_aarch64 if machine == "aarch64" else torch.default_x86_64
    known = [variant for variant in same if variant in {build, default}]
    if any(covers(capabilities, torch, variant) for variant in known):
        same = known
    return _ranked(torch, same, driver, capabilities, preferred=(build, default))[:KEPT] or (build,)


def _ranked(
    torch: Torch,
    found: Iterable[str],
    driver: str | None,
    capabilities: tuple[str, ...],
    preferred: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Return CUDA variants, best first: those with code for every card that the driver runs, then the preferred, then the newer CUDA."""

    def worth(variant: str) -> tuple[Any, ...]:
        served = (covers(capabilities, torch, variant), runs(driver, variant), runs_natively(driver, variant))
        return (*served, *(variant == name for name in preferred), numbers(cuda_of(variant) or "0"))

    return tuple(sorted(found, key=worth, reverse=True))


def existing(profile: HostProfile, torch: Torch) -> tuple[str, ...]:
    """Return the variants of a release in the host's Pythons."""
    present = (
        split(python.torch)
        for python in profile.interpreters.pythons
        if python.torch and unfit(python.torch, profile.platform) is None
    )
    return tuple(dict.fromkeys(variant for version, variant in present if version == torch.version))


@cache
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


@cache
def split(installed: str) -> tuple[str, str]:
    """Return release and variant of a torch version string such as `2.7.0+cu126`; without a variant, `cpu`."""
    version, _, variant = installed.partition("+")
    return version, variant if _is_variant(variant) else "cpu"


def _is_variant(local: str) -> bool:
    return local == "cpu" or bool(cuda_of(local)) or local.startswith("rocm")


def alone(profile: HostProfile, torch: Torch) -> tuple[str, ...]:
    """Return the variants of torch for a Stack without vLLM."""
    if profile.platform == "cpu":
        return ("cpu",)
    if profile.platform == "rocm":
        return tuple(variant for variant in reversed(torch.rocm) if _rocm_fits(profile.rocm, variant))[:1]
    driver = profile.driver
    if profile.driver_absent or (
        driver and not profile.driver_stays and numbers(driver) < numbers(catalog().driver_offer.version)
    ):
        driver = catalog().driver_offer.version
    return _cuda_alone(torch, profile.machine, driver, profile.capabilities)


@cache
def _cuda_alone(
    torch: Torch, machine: str | None, driver: str | None, capabilities: tuple[str, ...]
) -> tuple[str, ...]:
    return _ranked(torch, offered(machine, torch), driver, capabilities)[:KEPT]


def offered(machine: str | None, torch: Torch) -> tuple[str, ...]:
    """Return the CUDA variants of a torch release for the host's architecture."""
    return torch.cuda_aarch64 if machine == "aarch64" else torch.cuda


def covers(capabilities: tuple[str, ...], torch: Torch, variant: str) -> bool:
    """Return whether a variant has code for every card; True if the table does not list it."""
    codes = torch_codes(torch.version, variant)
    return codes is None or all(
        gpu_code.coverage(codes, capability) is not gpu_code.Coverage.NONE for capability in capabilities
    )


@cache
def torch_codes(version: str, variant: str) -> tuple[str, ...] | None:
    """Return the GPU code in a CUDA variant of torch; None if the table does not list it."""
    for row in catalog().torch_archs:
        if row.variant == variant and between(version, row.since, row.until):
            return row.codes
    return None


@cache
def runs(driver: str | None, variant: str) -> bool:
    """Return whether a driver runs builds of the variant's CUDA major; True if the driver is unknown."""
    major = numbers(cuda_of(variant) or "0")[0]
    floor = next((row.driver for row in catalog().cuda_majors if row.major == major), None)
    return driver is None or floor is None or numbers(driver) >= numbers(floor)


@cache
def runs_natively(driver: str | None, variant: str) -> bool:
    """Return whether a driver has the variant's CUDA or a newer one; True if the driver is unknown."""
    floor = native_floor(cuda_of(variant) or "")
    return driver is None or floor is None or numbers(driver) >= numbers(floor)


@cache
def native_floor(cuda: str) -> str | None:
    """Return the lowest driver that runs all output of a CUDA toolkit, PTX included."""
    return next((row.driver for row in catalog().toolkits if row.version == cuda), None)


def _rocm_fits(installed: str | None, variant: str) -> bool:
    """Return whether a variant has the first two numbers of the installed ROCm."""
    return installed is None or numbers(installed)[:2] == numbers(variant)[:2]
