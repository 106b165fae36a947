"""The build cache: built wheels by build key, in the wheelhouse. One build serves a fleet and every later run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from provision.catalog.versions import numbers
from provision.core.models.base import Record
from provision.features.wheel_builder.build_key import BuildKey
from provision.features.wheel_builder.recipes import recipe_for
from provision.phases.stage.wheelhouse import Store
from verify.binaries.gpu_code import native_for

_KIND = "builds"


class BuiltWheel(Record):
    """A built wheel, and how it was built."""

    key: BuildKey
    """The build key, with the C library that the wheel really needs."""
    torch: str
    """Full version of the torch that it was built against."""
    name: str
    sha256: str
    size: int
    codes: tuple[str, ...]
    """GPU architectures with native code."""
    builder: str
    built_at: str
    jobs: int
    cpu_seconds: float
    """CPU time of all processes of the build."""
    largest_process_gib: float
    nvcc: str | None
    log: str
    """Path of the build log on the controller."""

    def serves(self, wanted: BuildKey) -> bool:
        """Check whether the wheel matches a key: with native code for its cards, or without code when kernels are compiled on the host."""
        codes, cards = set(self.codes), wanted.built_for.capabilities
        fits = all(native_for(codes, card) for card in cards) if recipe_for(wanted).compiled else not codes
        older = numbers(self.key.built_for.glibc) <= numbers(wanted.built_for.glibc)
        return fits and older and self.key.same_build(wanted)


class BuildCache:
    """The built wheels in a wheelhouse."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, wanted: BuildKey) -> BuiltWheel | None:
        """Return an undamaged wheel that matches the key; None when there is none."""
        for built in self:
            if built.serves(wanted) and self._store.find(built.sha256, built.name):
                return built
        return None

    def put(self, built: BuiltWheel) -> None:
        """Record a wheel under its key. It replaces an older one."""
        self._store.put(_KIND, built.key.slug, built.model_dump(mode="json"))

    def __iter__(self) -> Iterator[BuiltWheel]:
        for path in sorted((self._store.root / _KIND).glob("*.json")):
            try:
                yield BuiltWheel.model_validate(self._store.get(_KIND, path.stem) or {})
            except ValidationError:
                continue  # written by another release of this product

    def log_path(self, key: BuildKey) -> Path:
        """Return the path of the log of a build."""
        return self._store.root / _KIND / f"{key.slug}.log"
