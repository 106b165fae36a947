"""The source of flash kernels: vLLM's wheel, and the separate flash-attn package."""

from dataclasses import dataclass
from functools import cache

from provision.catalog import catalog
from provision.core.models.stack import FlashAttnPlan
from provision.phases.plan import attention, flash_package
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile

WANTED = ("package", "both")
NONE = FlashAttnPlan(provider="none")


@dataclass(frozen=True)
class FlashChoice:
    """The choice with its reason. `refused` is the reason why a requested package is not available."""

    plan: FlashAttnPlan
    why: str
    refused: str | None = None
    source: str | None = None


def choose(option: BuildOption, profile: HostProfile) -> FlashChoice:
    """Return the flash-attn part of a candidate."""
    policy = profile.policy.flash_attn
    if policy == "none":
        return FlashChoice(NONE, "`--flash-attn none` disables flash kernels")
    if profile.platform == "cpu":
        refused = "the flash-attn package is for GPUs; this host serves from its processor"
        return FlashChoice(NONE, "no flash kernels on cpu", refused if policy in WANTED else None)
    bundled = _bundled(option, profile)
    if policy == "bundled":
        return FlashChoice(bundled, "the kernels in vLLM's wheel, as `--flash-attn bundled` requests")
    if profile.policy.torch == "existing":
        why = "the package cannot be checked against a torch that only the host has"
        return FlashChoice(bundled, f"without the package: {why}", why if policy in WANTED else None)
    found = flash_package.find(option, profile)
    if found.package is None:
        refused = f"the flash-attn package is requested: {found.why}"
        return FlashChoice(
            bundled, f"without the package: {found.why}", refused if policy in WANTED else None, found.source
        )
    decodes = "; vLLM still decodes with its own kernels" if bundled is not NONE else ""
    return FlashChoice(_with(option, found, bundled=bundled is not NONE), f"{found.why}{decodes}", source=found.source)


@cache
def _with(option: BuildOption, found: flash_package.PackageChoice, *, bundled: bool) -> FlashAttnPlan:
    """Return the plan with the package. Without vLLM, the package's kernels serve."""
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
