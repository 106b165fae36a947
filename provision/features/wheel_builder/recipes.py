"""The build key of a package: all that decides whether its wheel loads with a Stack's torch and has code for its cards.

The build recipes are rows of recipes.toml: variables, names of architectures, and memory of one job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from provision.catalog.versions import numbers
from provision.core.errors import StageError
from provision.core.models.base import Record
from provision.core.models.stack import FlashAttnKey, FlashAttnPackage
from provision.core.tables import build_row, own_table, rows_of

ANY = "*"
_TABLE = Path(__file__).with_name("recipes.toml")
FLASH_ATTN = "flash-attn"


class BuildKey(Record):
    """A package release, built for one torch, Python, C library and set of cards."""

    name: str
    version: str
    """Release without local part."""
    built_for: FlashAttnKey

    @classmethod
    def of(cls, package: FlashAttnPackage) -> BuildKey:
        """Return the build key of the package in a plan."""
        assert package.key is not None  # the one without a key is never built
        return cls(name=FLASH_ATTN, version=package.version, built_for=package.key)

    @property
    def platform(self) -> str:
        """`cuda` or `rocm`."""
        return "rocm" if self.built_for.rocm else "cuda"

    @property
    def runtime(self) -> str:
        """`cu13`, `rocm6.2`."""
        return f"rocm{self.built_for.rocm}" if self.built_for.rocm else f"cu{self.built_for.cuda_major}"

    @property
    def local(self) -> str:
        """The local part of the version, as the authors of flash-attn write it: `cu13torch2.11cxx11abiTRUE`."""
        abi = str(self.built_for.cxx11_abi).upper()
        return f"{self.runtime.replace('.', '')}torch{self.built_for.torch}cxx11abi{abi}"

    @property
    def slug(self) -> str:
        """The key as a file name."""
        key = self.built_for
        cards = "-".join(capability.replace(".", "") for capability in key.capabilities)
        python = f"cp{key.python.replace('.', '')}"
        kind = f"{self.runtime}-torch{key.torch}-cxx11abi{int(key.cxx11_abi)}-{python}-{key.machine}"
        return f"{canonicalize_name(self.name)}-{self.version}-{kind}-glibc{key.glibc}-{cards}"

    def same_build(self, other: BuildKey) -> bool:
        """Check whether one build can serve both keys: all but the cards and the C library is equal."""
        return self._with((), "") == other._with((), "")

    def covering(self, others: Iterable[BuildKey]) -> BuildKey:
        """Return the key with the cards of all others that one build can serve, and the oldest of their C libraries."""
        keys = [self, *(other for other in others if self.same_build(other))]
        cards = {capability for key in keys for capability in key.built_for.capabilities}
        glibc = min((key.built_for.glibc for key in keys), key=numbers)
        ordered = tuple(sorted(cards, key=numbers)) if self.platform == "cuda" else tuple(sorted(cards))
        return self._with(ordered, glibc)

    def _with(self, capabilities: tuple[str, ...], glibc: str) -> BuildKey:
        built_for = self.built_for.model_copy(update={"capabilities": capabilities, "glibc": glibc})
        return self.model_copy(update={"built_for": built_for})


@dataclass(frozen=True)
class Recipe:
    """A row of recipes.toml."""

    name: str
    platform: str
    environment: dict[str, str]
    separator: str
    memory_gib: float
    """Of the largest compiler process, GiB."""
    source: str
    archs: dict[str, str] | None = None
    """The package's name of each capability that it supports; None for any, by its number."""
    requires: tuple[str, ...] = ()
    """Requirements at run time besides torch."""
    compiled: bool = True
    """Whether the wheel has a compiled extension."""
    since: str | None = None
    until: str | None = None
    """The first release that the recipe does not cover."""

    def holds(self, key: BuildKey) -> bool:
        """Check whether the recipe covers a key: package, release and cards."""
        version = Version(key.version)
        return (
            self.name in {key.name, ANY}
            and self.platform == key.platform
            and (self.since is None or version >= Version(self.since))
            and (self.until is None or version < Version(self.until))
            and (self.archs is None or all(capability in self.archs for capability in key.built_for.capabilities))
        )

    def variables(self, key: BuildKey) -> dict[str, str]:
        """Return the environment variables of the build; those of torch's build extension are for packages without their own."""
        capabilities, names = key.built_for.capabilities, self.archs or {}
        archs = dict.fromkeys(names.get(capability, capability) for capability in capabilities)
        values = {"archs": self.separator.join(archs), "threads": "1", "local": key.local}
        own = {name: text.format(**values) for name, text in self.environment.items()}
        if key.platform == "cuda":
            own["TORCH_CUDA_ARCH_LIST"] = ";".join(capabilities)
        return own


@dataclass(frozen=True)
class Toolkit:
    """The CUDA compiler as wheels."""

    since: int
    """The first CUDA major whose wheels have nvcc."""
    requires: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    """(name, target) below CUDA_HOME: files that builds need and the wheels lack."""
    source: str

    def requirements(self, cuda: str) -> list[str]:
        """Return the wheels of one CUDA release, `13.0`."""
        return [f"{name}=={cuda}.*" for name in self.requires]


def recipe_for(key: BuildKey) -> Recipe:
    """Return the recipe of a key. Raises StageError where there is none; the hint has the supported capabilities."""
    rows = [recipe for recipe in rows_of(_TABLE, "recipe", Recipe) if recipe.platform == key.platform]
    rows = [row for row in rows if row.name == key.name] or [row for row in rows if row.name == ANY]
    if found := next((recipe for recipe in rows if recipe.holds(key)), None):
        return found
    known = sorted({capability for recipe in rows for capability in recipe.archs or ()}, key=numbers)
    asked = ", ".join(key.built_for.capabilities)
    raise StageError(
        f"no recipe builds {key.name} {key.version} for {asked} on {key.platform}",
        hint=f"it has kernels for {', '.join(known)}" if known else f"recipes are in {__package__}/recipes.toml",
    )


def tools() -> list[str]:
    """Return the distributions of every build environment."""
    return list(own_table(_TABLE)["tools"]["requires"])


def toolkit() -> Toolkit:
    """Return the CUDA compiler as wheels."""
    return build_row(Toolkit, own_table(_TABLE)["toolkit"], where=_TABLE.name)
