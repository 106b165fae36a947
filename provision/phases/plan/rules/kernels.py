"""Attention kernels: the back end, flash-attn and FlashInfer."""

from collections.abc import Iterator
from typing import Any

from provision.phases.plan import flash
from provision.phases.plan.attention import choose as choose_attention
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.flash import choose_flashinfer
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule


@rule(order=160)
def attention(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """Flash attention serves if every GPU and the vLLM version support it, else the best other back end."""
    if option.release is None:
        return
    choice = choose_attention(option, profile)
    facts: dict[str, Any] = {
        "requested": profile.policy.attention,
        "compute_capability": sorted({capability or "unknown" for _, capability in profile.kinds}),
    }
    if choice.plan is None:
        yield reject(choice.why, **facts)
        return
    generation = f", FlashAttention {choice.plan.generation}" if choice.plan.generation else ""
    yield accept(f"{choice.plan.backend}{generation}: {choice.why}", source=choice.source, **facts)


@rule(order=180)
def flash_attn(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The flash-attn package is used only as the exact wheel for torch, CUDA major, Python and C++ ABI; where there is none, flash-attn-4 on the GPUs and beside the vLLM versions that it fits."""
    choice = flash.choose(option, profile)
    requested = profile.policy.flash_attn
    if choice.refused:
        yield reject(choice.refused, source=choice.source, requested=requested)
    elif profile.platform == "cuda":
        yield accept(
            f"flash attention kernels: {choice.plan.provider}; {choice.why}", source=choice.source, requested=requested
        )


@rule(order=190)
def flashinfer(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """FlashInfer's kernels are compiled by an nvcc of the build's CUDA major, prebuilt for exactly its version, or off."""
    choice = choose_flashinfer(option, profile)
    if choice is None:
        return
    kits = [kit.version for kit in profile.toolkits or ()]
    facts = {"toolkits": kits, "requested": profile.policy.attention}
    if choice.assumed:
        yield assume(choice.assumed)
    elif choice.refused:
        yield reject(choice.refused, source=choice.source, **facts)
    else:
        yield accept(choice.why, source=choice.source or (option.release.source if option.release else None), **facts)
