"""attention.sdpa_flash: torch's flash kernels."""

from __future__ import annotations

from verify.judged_attention import check
from verify.providers.sdpa import FLASH

CHECK = check(FLASH, level="quick")
