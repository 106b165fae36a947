"""attention.vllm_flash_4: the kernels that vLLM serves with on Blackwell, and on Hopper where asked."""

from __future__ import annotations

from verify.judged_attention import check
from verify.providers.vllm_flash import FOUR

CHECK = check(FOUR, level="standard")
