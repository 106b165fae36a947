"""Where FlashInfer's kernels come from: compiled by the host's nvcc, prebuilt in packages of its very version, or not used at all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from provision.catalog import catalog
from provision.catalog.versions import between, cuda_of, numbers
from provision.core.models.stack import FlashInferPlan, KernelPackage
from provision.phases.plan import attention
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile

BACKEND = "FLASHINFER"


@dataclass(frozen=True, slots=True)
class FlashInferChoice:
    """`refused` says why a back end that was asked for has no kernels here, `assumed` what nothing said about the host."""

    plan: FlashInferPlan | None
    why: str
    refused: str | None = None
    assumed: str | None = None
    source: str | None = None


def choose(option: BuildOption, profile: HostProfile) -> FlashInferChoice | None:
    """The FlashInfer part of a candidate; None where no rule about it applies."""
    if option.release is None or profile.platform != "cuda":
        return None
    version = option.release.flashinfer
    wanted = _serves(option, profile)
    if version is None:
        missing = f"vLLM {option.release.version}'s wheel does not bring FlashInfer"
        return FlashInferChoice(None, missing, missing, source=option.release.source) if wanted else None
    kit = compiler(option, profile)
    if kit is not None:
        return FlashInferChoice(
            _plan(version, "compiled"), f"nvcc {kit} of the host compiles FlashInfer {version}'s kernels at first use"
        )
    if not wanted:
        return FlashInferChoice(
            _plan(version, "off"),
            f"no nvcc of the build's CUDA major is at hand for FlashInfer {version}: vLLM samples without it",
        )
    return _prebuilt(version, option, profile)


def compiler(option: BuildOption, profile: HostProfile) -> str | None:
    """The newest CUDA toolkit of the build's major whose nvcc takes the host's gcc."""
    major = numbers(cuda_of(option.variant) or "0")[0]
    for kit in reversed(profile.environment.toolkits or ()):
        if numbers(kit)[0] == major and (
            profile.environment.gcc is None or profile.environment.gcc <= newest_gcc(kit)[0]
        ):
            return kit
    return None


@cache
def _plan(version: str, kernels: Literal["compiled", "off"]) -> FlashInferPlan:
    return FlashInferPlan(version=version, kernels=kernels)


@cache
def newest_gcc(toolkit: str) -> tuple[int, str]:
    """The newest gcc major that a toolkit's nvcc takes, and the source; a minor without a row takes what the one before it takes."""
    rows = sorted(catalog().host_compilers, key=lambda row: numbers(row.cuda))
    known = [row for row in rows if numbers(row.cuda) <= numbers(toolkit)]
    row = known[-1] if known else rows[0]
    return row.gcc, row.source


def _serves(option: BuildOption, profile: HostProfile) -> bool:
    plan = attention.choose(option, profile).plan
    return plan is not None and plan.backend == BACKEND


def _prebuilt(version: str, option: BuildOption, profile: HostProfile) -> FlashInferChoice:
    cuda = cuda_of(option.variant) or "0"
    known = sorted(catalog().flashinfer_kernels, key=lambda row: row.distribution)
    rows = [row for row in known if between(version, row.since, row.until)]
    short = [row for row in rows if numbers(cuda) < numbers(row.minimum_cuda)]
    if short or len({row.distribution for row in rows}) < len(_distributions()):
        row = (short or known)[0]
        if profile.environment.toolkits is None:
            needed = f"nvcc of CUDA {numbers(cuda)[0]} is on the host, for FlashInfer {version}'s kernels"
            return FlashInferChoice(_plan(version, "compiled"), needed, assumed=needed, source=row.source)
        why = f"FlashInfer {version} compiles its kernels, and the host has no nvcc of CUDA {numbers(cuda)[0]}"
        return FlashInferChoice(
            None, why, f"{why}; prebuilt ones are published for CUDA {row.minimum_cuda} and newer", source=row.source
        )
    packages = tuple(
        KernelPackage(
            distribution=row.distribution,
            version=version,
            index=row.index.format(variant=option.variant) if row.index else None,
        )
        for row in rows
    )
    names = " and ".join(f"{package.distribution} {version}" for package in packages)
    plan = FlashInferPlan(version=version, kernels="prebuilt", packages=packages)
    return FlashInferChoice(
        plan, f"the kernels come prebuilt in {names}, FlashInfer's own version", source=rows[-1].source
    )


@cache
def _distributions() -> frozenset[str]:
    return frozenset(row.distribution for row in catalog().flashinfer_kernels)
