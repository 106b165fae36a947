"""Build recipes from recipes.toml: variables, names of architectures, and memory of one job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from provision.catalog.versions import numbers
from provision.core.errors import StageError
from provision.core.tables import build_row, own_table, rows_of
from provision.features.wheel_builder.build_key import BuildKey

ANY = "*"
_TABLE = Path(__file__).with_name("recipes.toml")


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
    """Return the recipe of a key.

    Raises:
        StageError: There is none; the hint has the supported capabilities.
    """
    rows = [recipe for recipe in rows_of(_TABLE, "recipe", Recipe) if recipe.platform == key.platform]
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
    return build_row(Toolkit, own_table(_TABLE)["toolkit"], where=_TABLE.name)


def tools() -> list[str]:
    """Return the distributions of every build environment."""
    return list(own_table(_TABLE)["tools"]["requires"])
