"""attention.NAME: one attention provider of data/attention.toml."""

from __future__ import annotations

from verify.attention import check
from verify.attention.providers import aiter_flash, flash_attn, sdpa, unified, vllm_cpu, vllm_flash, vllm_rocm
from verify.records import CheckContext, CheckResult

PROVIDERS = {
    provider.name: provider
    for provider in (
        sdpa.FLASH,
        sdpa.EFFICIENT,
        sdpa.CUDNN,
        sdpa.MATH,
        flash_attn.TWO,
        flash_attn.THREE,
        flash_attn.FOUR,
        aiter_flash.FLASH,
        unified.AITER,
        unified.TRITON,
        vllm_rocm.PAGED,
        vllm_cpu.CPU,
        vllm_flash.TWO,
        vllm_flash.THREE,
        vllm_flash.FOUR,
    )
}


def run(name: str, context: CheckContext) -> CheckResult:
    """Check the provider of that name."""
    return check.run(PROVIDERS[name], context)
