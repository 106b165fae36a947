"""The tables of this package: families and classes of models, vLLM's parsers by release, and quantisations."""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from packaging.version import Version

from provision.catalog.rows import Row
from provision.core.tables import build_row, own_table, rows_of

HERE = Path(__file__).parent

Kind = Literal["tool", "reasoning"]


class Family(Row):
    """Models that are served alike; families.toml explains the values."""

    name: str
    architectures: tuple[str, ...]
    config: dict[str, str] | None = None
    named: str | None = None
    derived: bool = False
    """Whether the models are made by tuning those of other families, so that only the name shows them."""
    tools: str | None = None
    reasoning: str | None = None
    arguments: tuple[dict[str, Any], ...] = ()
    template: str | None = None
    code: str | None = None

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """Return the condition on the model's name."""
        return re.compile(self.named) if self.named else None


@dataclass(frozen=True)
class Releases:
    """The releases of vLLM that have a name: from `since` on, up to `until` without it."""

    since: str
    until: str | None = None

    def __contains__(self, version: str) -> bool:
        found = Version(version)
        return Version(self.since) <= found and (self.until is None or found < Version(self.until))

    def __str__(self) -> str:
        return f"from vLLM {self.since} on" + (f", before {self.until}" if self.until else "")


class Quantization(Row):
    """A quantisation that config.json names; `capability` is the lowest one of NVIDIA cards."""

    name: str
    since: str
    until: str | None = None
    capability: str | None = None

    @property
    def releases(self) -> Releases:
        return Releases(self.since, self.until)


class Int8OnX86(Row):
    """What an x86 processor needs for products of 8-bit weights and activations."""

    flags: tuple[str, ...]


@cache
def families() -> dict[str, Family]:
    """Return the families by name, in the order in which they are tried."""
    return {row.name: row for row in rows_of(HERE / "families.toml", "family", Family)}


@cache
def parsers(kind: Kind) -> dict[str, Releases]:
    """Return the releases of each parser of a kind."""
    return {name: Releases(**row) for name, row in own_table(HERE / "parsers.toml")[kind].items()}


@cache
def class_since() -> dict[str, str]:
    """Return the first release that knows a class of models, for those that came after 0.6.3."""
    table = own_table(HERE / "model_classes.toml")["since"]
    return {name: version for version, names in table.items() for name in names}


def option_since(kind: Kind) -> str:
    """Return the first release whose option for a kind of parser works alone."""
    return str(own_table(HERE / "parsers.toml")["option"][kind])


@cache
def quantizations() -> dict[str, Quantization]:
    return {row.name: row for row in rows_of(HERE / "quantization.toml", "method", Quantization)}


@cache
def int8_on_x86() -> Int8OnX86:
    path, name = HERE / "quantization.toml", "int8_on_x86"
    return build_row(Int8OnX86, own_table(path)[name], where=f"{path.name}, {name}")


@cache
def config_types() -> frozenset[str]:
    """Return the values of `model_type` that vLLM reads without code of the model's repository."""
    return frozenset(own_table(HERE / "config_types.toml")["names"])
