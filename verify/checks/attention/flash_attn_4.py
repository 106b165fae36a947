"""attention.flash_attn_4: the package for Hopper and Blackwell."""

from __future__ import annotations

from verify.judged_attention import check
from verify.providers.flash_attn import FOUR

CHECK = check(FOUR, level="standard")
