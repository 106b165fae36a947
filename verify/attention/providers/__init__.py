"""Attention providers: vLLM's kernels, the flash-attn packages, torch's own paths."""

import importlib
import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from verify.attention.cases import Case, Inputs
from verify.host.devices import architecture
from verify.tables import table

NO_KERNEL = "No available kernel"
"""torch's message if the only enabled path does not support a problem; which ones depends on card and release."""
KINDS = {"cpu": "CPUs", "cuda": "NVIDIA GPUs", "rocm": "AMD GPUs"}


@dataclass(frozen=True)
class Provider:
    """An attention provider. `name` is its table in data/attention.toml; `compute` returns the packed result of a problem."""

    name: str
    compute: Callable[[Case, Inputs], Tensor]
    prepare: Callable[[], str | None] | None = None
    """Loads its kernels and returns why that fails; by default its module is imported."""
    truncated: Callable[[], frozenset[str]] = frozenset
    """Returns the precisions to which its kernels cut results instead of rounding them."""

    @property
    def row(self) -> Mapping[str, Any]:
        """Its table of facts."""
        row: Mapping[str, Any] = table("attention")["provider"][self.name]
        return row

    def dtypes(self, kind: str, device: str | None = None) -> tuple[str, ...]:
        """Return the precisions that it supports on a kind of device, or on one device of that kind."""
        names = tuple(self.row["dtypes"].get(kind, ()))
        if device is None or kind != "cuda" or "bfloat16_from" not in self.row:
            return names
        has = torch.cuda.get_device_capability(device) >= _version(self.row["bfloat16_from"])
        return tuple(name for name in names if has or name != "bfloat16")

    def missing(self, device: str) -> str | None:
        """Return why it cannot compute on a device here, None if it can."""
        kind = device_kind(device)
        if kind not in self.row["devices"]:
            return f"it computes on {' and '.join(KINDS[name] for name in self.row['devices'])}"
        reason = _unsuited(self.row, device, kind) or (self.prepare() if self.prepare else import_problem(self.row))
        return reason or (self._refusal(device) if kind in self.row.get("probed", ()) else None)

    def _refusal(self, device: str) -> str | None:
        """Return that torch refuses even a plain problem on a device, None if it computes it."""
        case = Case("plain", 1, 1, ((16, 16),), 64)
        try:
            self.compute(case, case.inputs("float16").to(device))
        except RuntimeError as error:
            if NO_KERNEL not in str(error):
                raise
            return f"{self.row['title']} has no kernel for {architecture(device)}"
        return None

    def refuses(self, case: Case, dtype: str, kind: str) -> str | None:
        """Return why it does not support a problem, None if it does."""
        least, greatest, divisor = self.row["dims"]
        if not least <= case.dim <= greatest or case.dim % divisor:
            return f"head dimension {case.dim}"
        if min(keys for _, keys in case.sequences) < self.row.get("least_keys", 1):
            return "a single key"
        if self.row.get("causal_only") and not case.causal and max(queries for queries, _ in case.sequences) > 1:
            return "no causal mask"
        lacking = sorted(case.required_features - set(self.row["takes"][kind]))
        if lacking:
            return ", ".join(lacking)
        return None if dtype in self.dtypes(kind) else dtype


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def device_kind(device: str) -> str:
    """Return `cpu`, `cuda` or `rocm`; torch calls both GPU kinds cuda."""
    return "cpu" if device == "cpu" else "rocm" if torch.version.hip is not None else "cuda"


def _unsuited(row: Mapping[str, Any], device: str, kind: str) -> str | None:
    if kind == "rocm" and "gfx" in row:
        gfx = architecture(device)
        return None if gfx in row["gfx"] else f"{row['title']} needs {' or '.join(row['gfx'])}, this GPU has {gfx}"
    if kind != "cuda" or "capability" not in row:
        return None
    least, greatest = (_version(text) for text in row["capability"])
    has = torch.cuda.get_device_capability(device)
    if least <= has <= greatest:
        return None
    wanted = f"{row['capability'][0]} to {row['capability'][1]}" if greatest < (99, 0) else f"{row['capability'][0]}"
    return f"{row['title']} needs compute capability {wanted}, this GPU has {has[0]}.{has[1]}"


def import_problem(row: Mapping[str, Any]) -> str | None:
    """Return why its module cannot be used in this environment."""
    name = row.get("module")
    if name is None:
        return None
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        return f"no `{name.partition('.')[0]}` in this environment"
    if "distribution" in row and not list(importlib.metadata.distributions(name=row["distribution"])):
        return f"no `{row['distribution']}` in this environment"
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError, TypeError) as error:
        return f"`{name}` does not import: {error}"
    reason = getattr(module, "fa_version_unsupported_reason", None)
    problem = reason(row["generation"]) if reason and "generation" in row else None
    return None if problem is None else str(problem)


FILLER = 60.0
"""Content of unused cache positions: a kernel that reads it gets a very wrong result. Exact in all precisions."""


def sequence_starts(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return the first token of each sequence and the end of the last, int32, on a device."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def page_table(lengths: Sequence[int], page: int, device: torch.device) -> Tensor:
    """Return (sequences, pages), int32: the pages of each sequence, scattered so that none are consecutive."""
    widest = max(-(-length // page) for length in lengths)
    count = len(lengths) * widest
    step = next(step for step in range(count // 2 + 1, 2 * count + 2) if math.gcd(step, count) == 1)
    order = [(place * step) % count for place in range(count)]
    return torch.tensor(order, dtype=torch.int32, device=device).view(len(lengths), widest)


def cache(packed: Tensor, lengths: Sequence[int], table: Tensor, page: int) -> Tensor:
    """Return the (pages, page size, heads, dim) cache with packed (tokens, heads, dim) keys or values."""
    filled = torch.full((table.numel(), page, *packed.shape[1:]), FILLER, device=packed.device).to(packed.dtype)
    for row, rows in zip(table.tolist(), packed.split(list(lengths)), strict=True):
        for number, chunk in zip(
            row, rows.split(page), strict=False
        ):  # a short sequence does not use all pages of its row
            filled[number, : chunk.shape[0]] = chunk
    return filled


def slots(lengths: Sequence[int], table: Tensor, page: int) -> Tensor:
    """Return the position of each packed token in the cache, counted in tokens."""
    parts = []
    for row, length in zip(table.long(), lengths, strict=True):
        place = torch.arange(length, device=table.device)
        parts.append(row[place // page] * page + place % page)
    return torch.cat(parts)
