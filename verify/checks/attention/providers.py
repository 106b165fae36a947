"""attention.*: each attention provider compared with the float64 reference."""

from __future__ import annotations

from verify.attention.check import check
from verify.attention.providers import aiter_flash, flash_attn, sdpa, unified, vllm_cpu, vllm_flash, vllm_rocm

CHECKS = (
    check(sdpa.FLASH, level="quick"),
    check(sdpa.MATH, level="full"),
    *(
        check(provider, level="standard")
        for provider in (
            sdpa.EFFICIENT,
            sdpa.CUDNN,
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
    ),
)
