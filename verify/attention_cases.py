"""The attention problems that are checked, torch's flash path for them, and the plain computation that sets the tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from verify import reference
from verify.inputs import normal
from verify.records import Level, Outcome
from verify.tables import table

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One problem; `diagonal` is that of verify/reference.py."""

    name: str
    heads: int
    key_heads: int
    queries: int
    keys: int
    dim: int
    diagonal: int | None = None
    batch: int = 2
    level: Level = "standard"
    cpu_only: bool = False
    """The mask is one that only the CPU's flash kernel takes."""

    def inputs(self, dtype: str) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, on the CPU."""
        query = normal(self.batch, self.heads, self.queries, self.dim, seed=5, dtype=dtype)
        key, value = (
            normal(self.batch, self.key_heads, self.keys, self.dim, seed=seed, dtype=dtype) for seed in (6, 7)
        )
        return query, key, value

    def mask(self) -> Tensor | None:
        """True where a query sees a key; null when all see all."""
        import torch

        if self.diagonal is None:
            return None
        return torch.ones(self.queries, self.keys, dtype=torch.bool).tril(self.diagonal)


CASES = (
    Case("decode one token", 8, 2, 1, 200, 64, level="quick"),
    Case("causal", 8, 8, 129, 129, 64, diagonal=0, level="quick"),
    Case("odd lengths", 4, 4, 77, 301, 80),
    Case("causal, grouped heads", 8, 2, 256, 256, 128, diagonal=0),
    Case("bottom-right causal", 4, 4, 33, 160, 64, diagonal=reference.bottom_right(33, 160)),
    Case("rows that see nothing", 4, 4, 96, 64, 64, diagonal=reference.bottom_right(96, 64), cpu_only=True),
    Case("narrow heads", 4, 4, 100, 100, 32, level="full"),
    Case("wide heads", 2, 2, 130, 130, 256, diagonal=0, level="full"),
    Case("long, causal, grouped heads", 4, 1, 1024, 1024, 128, diagonal=0, batch=1, level="full"),
    Case("one token alone", 1, 1, 1, 1, 64, batch=1, level="full"),
)


def without_kernel(device: str) -> Outcome | None:
    """The outcome for a GPU that is too old for torch's flash kernels, null for every other device."""
    import torch

    if device == "cpu" or torch.version.hip is not None:
        return None
    needed = tuple(int(part) for part in table("attention")["flash"]["compute_capability"].split("."))
    has = torch.cuda.get_device_capability(device)
    if has >= needed:
        return None
    return Outcome(
        "skip", f"no flash kernel for compute capability {has[0]}.{has[1]}, {needed[0]}.{needed[1]} is needed"
    )


def flash(case: Case, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """torch's scaled dot product attention with every path but the flash one shut.

    Raises RuntimeError when that path cannot take the case.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        if case.diagonal == 0 and case.queries == case.keys:
            return scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=case.heads != case.key_heads
            )
        return scaled_dot_product_attention(
            query, key, value, attn_mask=_flash_mask(case, query.device.type), enable_gqa=case.heads != case.key_heads
        )


def plain(case: Case, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The formula as it is written, every step rounded to the inputs' precision."""
    groups = case.heads // case.key_heads
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = (query * (1 / math.sqrt(case.dim))) @ key.transpose(2, 3)
    mask = case.mask()
    if mask is not None:
        scores = scores.masked_fill(~mask.to(scores.device), -math.inf)
    return scores.softmax(dim=3).nan_to_num(nan=0.0) @ value


def _flash_mask(case: Case, device: str) -> Tensor | None:
    """On GPUs the flash kernels take no mask, but know the bottom-right diagonal by its own type."""
    if case.diagonal is None or device == "cpu":
        return case.mask()
    from torch.nn.attention.bias import causal_lower_right

    bias: Tensor = causal_lower_right(case.queries, case.keys)
    return bias
