"""attention.vllm_flash_2: the kernels that vLLM serves with on Ampere, Ada and later workstation cards."""

from __future__ import annotations

from verify.judged_attention import check
from verify.providers.vllm_flash import TWO

CHECK = check(TWO, level="standard")
