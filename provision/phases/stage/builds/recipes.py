"""Build recipes from recipes.toml: variables, names of architectures, and memory of one job."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from provision.catalog.versions import numbers
from provision.core.errors import StageError
from provision.core.tables import own_table
from provision.phases.stage.builds.build_key import BuildKey

ANY = "*"


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

    def arch_names(self, capabilities: tuple[str, ...]) -> list[str]:
        """Return the package's names of the architectures, each once, in the order of the capabilities."""
        names = self.archs or {}
        return list(dict.fromkeys(names.get(capability, capability) for capability in capabilities))

    def variables(self, key: BuildKey, *, threads: int = 1) -> dict[str, str]:
        """Return the environment variables of the build. `threads` are those of one nvcc."""
        values = {
            "archs": self.separator.join(self.arch_names(key.built_for.capabilities)),
            "threads": str(threads),
            "local": key.local,
        }
        own = {name: text.format(**values) for name, text in self.environment.items()}
        return {**own, **_common(key)}


@dataclass(frozen=True)
class Toolkit:
    """The CUDA compiler as wheels."""

    since: int
    """The first CUDA major whose wheels have nvcc."""
    requires: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    """(name, target) below CUDA_HOME: files that builds need and the wheels lack."""

    def requirements(self, cuda: str) -> list[str]:
        """Return the wheels of one CUDA release, `13.0`."""
        return [f"{name}=={cuda}.*" for name in self.requires]


def recipe_for(key: BuildKey) -> Recipe:
    """Return the recipe of a key.

    Raises:
        StageError: There is none; the hint has the supported capabilities.
    """
    rows = [recipe for recipe in _table()[0] if recipe.platform == key.platform]
    rows = [row for row in rows if row.name == key.name] or [row for row in rows if row.name == ANY]
    for recipe in rows:
        if recipe.holds(key):
            return recipe
    known = sorted({capability for recipe in rows for capability in recipe.archs or ()}, key=numbers)
    asked = ", ".join(key.built_for.capabilities)
    raise StageError(
        f"no recipe builds {key.name} {key.version} for {asked} on {key.platform}",
        hint=f"it has kernels for {', '.join(known)}" if known else f"recipes are in {__package__}/recipes.toml",
    )


def toolkit() -> Toolkit:
    """Return the CUDA compiler as wheels."""
    return _table()[1]


def tools() -> list[str]:
    """Return the distributions of every build environment."""
    return _table()[2]


def _common(key: BuildKey) -> dict[str, str]:
    """Return the variables of torch's build extension, for packages without their own."""
    return {"TORCH_CUDA_ARCH_LIST": ";".join(key.built_for.capabilities)} if key.platform == "cuda" else {}


@cache
def _table() -> tuple[tuple[Recipe, ...], Toolkit, list[str]]:
    table = own_table(Path(__file__).with_name("recipes.toml"))
    recipes = tuple(
        Recipe(**{**row, "name": _name(row["name"]), "requires": tuple(row.get("requires", ()))})
        for row in table["recipe"]
    )
    kit = table["toolkit"]
    links = tuple((name, target) for name, target in kit["links"])
    return recipes, Toolkit(kit["since"], tuple(kit["requires"]), links), list(table["tools"]["requires"])


def _name(name: str) -> str:
    return ANY if name == ANY else canonicalize_name(name)
