"""Where flash kernels come from: inside vLLM's wheel, and whether the separate package goes beside them."""

from __future__ import annotations

from dataclasses import dataclass

from provision.models.stack import FlashAttnPackage, FlashAttnPlan
from provision.resolve import attention, flash_package
from provision.resolve.option import Option
from provision.resolve.view import View

WANTED = ("package", "both")


@dataclass(frozen=True, slots=True)
class Chosen:
    """`refused` says why a package that was asked for cannot be had."""

    plan: FlashAttnPlan
    why: str
    refused: str | None = None
    source: str | None = None


def choose(option: Option, view: View) -> Chosen:
    """The flash-attn part of a candidate."""
    policy = view.policy.flash_attn
    if policy == "none":
        return Chosen(FlashAttnPlan(provider="none"), "flash kernels are switched off")
    if view.platform == "cpu":
        refused = "the flash-attn package is for GPUs, and this host serves from its processor"
        none = FlashAttnPlan(provider="none")
        return Chosen(none, "no flash kernels on cpu", refused if policy in WANTED else None)
    bundled = _bundled(option, view)
    if policy == "bundled":
        return Chosen(bundled, "the kernels inside vLLM's wheel, by policy")
    found = flash_package.find(option, view)
    if found.package is None:
        refused = f"the flash-attn package was asked for: {found.why}"
        return Chosen(bundled, f"no package beside: {found.why}", refused if policy in WANTED else None, found.source)
    decodes = "; vLLM decodes with its own kernels all the same" if bundled.provider == "bundled" else ""
    return Chosen(_with(bundled, found.package, option), f"{found.why}{decodes}", source=found.source)


def _with(bundled: FlashAttnPlan, package: FlashAttnPackage, option: Option) -> FlashAttnPlan:
    """Without vLLM the package's kernels are the ones that serve."""
    if option.release is not None:
        return bundled.model_copy(update={"package": package})
    return FlashAttnPlan(provider=package.source, version=package.version, source=package.file, package=package)


def _bundled(option: Option, view: View) -> FlashAttnPlan:
    if option.release is None or view.platform != "cuda":
        return FlashAttnPlan(provider="none")
    plan = attention.choose(option, view).plan
    if plan is None or plan.backend != attention.FLASH:
        return FlashAttnPlan(provider="none")
    return FlashAttnPlan(
        provider="bundled", version=option.release.flash_commit, source="vllm_flash_attn in the vLLM wheel"
    )
