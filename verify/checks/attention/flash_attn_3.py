"""attention.flash_attn_3: the package for Hopper."""

from __future__ import annotations

from verify.judged_attention import check
from verify.providers.flash_attn import THREE

CHECK = check(THREE, level="standard")
