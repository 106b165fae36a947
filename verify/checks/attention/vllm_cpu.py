"""attention.vllm_cpu: the kernels that vLLM serves with on CPUs."""

from __future__ import annotations

from verify.judged_attention import check
from verify.providers.vllm_cpu import CPU

CHECK = check(CPU, level="standard")
