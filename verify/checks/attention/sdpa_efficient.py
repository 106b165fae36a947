"""attention.sdpa_efficient: torch's memory efficient kernels."""

from __future__ import annotations

from verify.judged_attention import check
from verify.providers.sdpa import EFFICIENT

CHECK = check(EFFICIENT, level="standard")
