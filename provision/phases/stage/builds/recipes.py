"""How a package is built: its variables, the names it has for architectures, and the memory of one job, from recipes.toml."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from provision.catalog.versions import numbers
from provision.core.errors import StageError
from provision.core.tables import own_table
from provision.phases.stage.builds.build_key import Key

ANY = "*"


@dataclass(frozen=True)
class Recipe:
    """One row of recipes.toml."""

    name: str
    platform: str
    environment: dict[str, str]
    separator: str
    memory_gib: float
    """Of the largest compiler process, GiB."""
    source: str
    archs: dict[str, str] | None = None
    """Its own name of each capability that it has kernels for; null: any, by its number."""
    requires: tuple[str, ...] = ()
    """What the package needs at run time besides torch."""
    compiled: bool = True
    """Whether the wheel holds a compiled extension."""
    since: str | None = None
    until: str | None = None
    """The first release that it no longer holds for."""

    def holds(self, key: Key) -> bool:
        """Whether this recipe is for a package, its release and its cards."""
        version = Version(key.version)
        return (
            self.name in {key.name, ANY}
            and self.platform == key.platform
            and (self.since is None or version >= Version(self.since))
            and (self.until is None or version < Version(self.until))
            and (self.archs is None or all(capability in self.archs for capability in key.built_for.capabilities))
        )

    def arch_names(self, capabilities: tuple[str, ...]) -> list[str]:
        """What the package calls the architectures, each once, in the order of the capabilities."""
        names = self.archs or {}
        return list(dict.fromkeys(names.get(capability, capability) for capability in capabilities))

    def variables(self, key: Key, *, threads: int = 1) -> dict[str, str]:
        """The environment of the build. `threads` are those of one nvcc."""
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
    """The first CUDA major whose wheels hold nvcc."""
    requires: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    """(name, target) below CUDA_HOME: what builds look for and the wheels do not have."""

    def requirements(self, cuda: str) -> list[str]:
        """The wheels of one CUDA release, `13.0`."""
        return [f"{name}=={cuda}.*" for name in self.requires]


def recipe_for(key: Key) -> Recipe:
    """The recipe that holds for a key.

    Raises StageError, naming the capabilities that the package has kernels for, when none does.
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
        hint=f"it has kernels for {', '.join(known)}" if known else f"recipes stand in {__package__}/recipes.toml",
    )


def toolkit() -> Toolkit:
    """CUDA's compiler from wheels."""
    return _table()[1]


def tools() -> list[str]:
    """Distributions that every build environment holds."""
    return _table()[2]


def _common(key: Key) -> dict[str, str]:
    """What torch's own build extension reads, for packages that name no architectures themselves."""
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
