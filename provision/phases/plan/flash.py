"""Where flash kernels come from: inside vLLM's wheel, and whether the separate package goes beside them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from provision.catalog import catalog
from provision.core.models.stack import FlashAttnPlan
from provision.phases.plan import attention, flash_package
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile

WANTED = ("package", "both")
NONE = FlashAttnPlan(provider="none")


@dataclass(frozen=True, slots=True)
class FlashChoice:
    """`refused` says why a package that was asked for cannot be had."""

    plan: FlashAttnPlan
    why: str
    refused: str | None = None
    source: str | None = None


def choose(option: BuildOption, profile: HostProfile) -> FlashChoice:
    """The flash-attn part of a candidate."""
    policy = profile.policy.flash_attn
    if policy == "none":
        return FlashChoice(NONE, "flash kernels are switched off")
    if profile.platform == "cpu":
        refused = "the flash-attn package is for GPUs, and this host serves from its processor"
        return FlashChoice(NONE, "no flash kernels on cpu", refused if policy in WANTED else None)
    bundled = _bundled(option, profile)
    if policy == "bundled":
        return FlashChoice(bundled, "the kernels inside vLLM's wheel, by policy")
    if profile.policy.torch == "existing":
        why = "no wheel of the package can be held against a torch that only the host has"
        return FlashChoice(bundled, f"no package beside: {why}", why if policy in WANTED else None)
    found = flash_package.find(option, profile)
    if found.package is None:
        refused = f"the flash-attn package was asked for: {found.why}"
        return FlashChoice(
            bundled, f"no package beside: {found.why}", refused if policy in WANTED else None, found.source
        )
    decodes = "; vLLM decodes with its own kernels all the same" if bundled is not NONE else ""
    return FlashChoice(_with(option, found, bundled=bundled is not NONE), f"{found.why}{decodes}", source=found.source)


@cache
def _with(option: BuildOption, found: flash_package.PackageChoice, *, bundled: bool) -> FlashAttnPlan:
    """Without vLLM the package's kernels are the ones that serve."""
    package = found.package
    assert package is not None
    if option.release is None:
        return FlashAttnPlan(provider=package.source, version=package.version, source=package.file, package=package)
    return (_of_vllm(option) if bundled else NONE).model_copy(update={"package": package})


def _bundled(option: BuildOption, profile: HostProfile) -> FlashAttnPlan:
    if option.release is None or profile.platform != "cuda":
        return NONE
    plan = attention.choose(option, profile).plan
    return _of_vllm(option) if plan is not None and plan.backend in catalog().flash_backends else NONE


@cache
def _of_vllm(option: BuildOption) -> FlashAttnPlan:
    assert option.release is not None
    return FlashAttnPlan(
        provider="bundled", version=option.release.flash_commit, source="vllm_flash_attn in the vLLM wheel"
    )
