"""attention.sdpa_math: what torch falls back to."""

from __future__ import annotations

from verify.judged_attention import check
from verify.providers.sdpa import MATH

CHECK = check(MATH, level="full")
