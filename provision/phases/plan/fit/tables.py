"""The two tables of this package, read once: how architectures keep keys and values, and what an engine takes beside them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from provision.catalog.rows import Row
from provision.core.tables import own_table, rows_of

_ARCHITECTURES = Path(__file__).with_name("architectures.toml")
_NEEDS = Path(__file__).with_name("needs.toml")


@dataclass(frozen=True, kw_only=True, eq=False)
class Architecture(Row):
    """Classes of models whose layers keep keys and values alike; architectures.toml says what the words mean."""

    names: tuple[str, ...]
    attention: Literal["uniform", "layered", "latent", "mixed"]
    full_every: int = 0
    sinks: bool = False
    defaults: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch(Row):
    """What vLLM computes at once when it is told nothing, by the memory of the card."""

    from_gib: int
    tokens: int
    sequences: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Platform(Row):
    """Sizes in GiB a device: context, its peers' buffers, captured graphs. `block` is tokens, `overlap` batches in flight."""

    family: str
    block: int
    latent_block: int
    """The block of models that keep a compressed vector (MLA)."""
    memory_share: float
    overlap: int
    context: float
    peers: float
    graphs: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Activation(Row):
    logit_copies: int
    hidden_copies: int
    inner_copies: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Length(Row):
    """In tokens."""

    least: int
    step: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Fp8Cache(Row):
    """What flash kernels read a cache in 8 bits on: compute capabilities, or levels of a CPU."""

    family: str
    on: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class CpuCache(Row):
    """A CPU host's cache: a share of its memory, and the least in GiB."""

    cpu_share: float
    cpu_least: float


@cache
def keys() -> dict[str, list[str]]:
    """The spellings in config.json of each thing that is read from it, the first found holds."""
    return {name: spellings for name, spellings in own_table(_ARCHITECTURES)["keys"].items() if name != "source"}


@cache
def rope() -> dict[str, Any]:
    """Which kinds of rotary scaling stretch the length that config.json names."""
    found: dict[str, Any] = own_table(_ARCHITECTURES)["rope"]
    return found


@cache
def architectures() -> dict[str, Architecture]:
    """Every known class of models."""
    return {name: row for row in rows_of(_ARCHITECTURES, "architecture", Architecture) for name in row.names}


@cache
def platforms() -> dict[str, Platform]:
    return {row.family: row for row in rows_of(_NEEDS, "platform", Platform)}


@cache
def batches() -> tuple[Batch, ...]:
    return rows_of(_NEEDS, "batch", Batch)


@cache
def fp8_caches() -> dict[str, Fp8Cache]:
    return {row.family: row for row in rows_of(_NEEDS, "fp8_cache", Fp8Cache)}


@cache
def activation() -> Activation:
    return rows_of(_NEEDS, "activation", Activation)[0]


@cache
def length() -> Length:
    return rows_of(_NEEDS, "length", Length)[0]


@cache
def cpu_cache() -> CpuCache:
    return rows_of(_NEEDS, "cache", CpuCache)[0]
