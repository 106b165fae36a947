"""attention.vllm_flash_3: the kernels that vLLM serves with on Hopper."""

from __future__ import annotations

from verify.judged_attention import check
from verify.providers.vllm_flash import THREE

CHECK = check(THREE, level="standard")
