"""attention.flash_attn_2: the package that models of one's own import."""

from __future__ import annotations

from verify.judged_attention import check
from verify.providers.flash_attn import TWO

CHECK = check(TWO, level="standard")
