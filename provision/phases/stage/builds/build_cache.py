"""Built wheels by their keys: in the wheelhouse, so that one build serves a fleet and every later run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from provision.catalog.versions import numbers
from provision.core.models.base import Record
from provision.phases.stage.builds.build_key import Key
from provision.phases.stage.builds.recipes import recipe_for
from provision.phases.stage.wheelhouse import Store
from verify.gpu_code import native_for

_KIND = "forge"


class Forged(Record):
    """A wheel that was built, and how."""

    key: Key
    """What it was built for; its C library is the one that it really wants."""
    torch: str
    """Full version of the torch that it was built against."""
    name: str
    sha256: str
    size: int
    codes: tuple[str, ...]
    """GPU code in it."""
    builder: str
    built_at: str
    jobs: int
    cpu_seconds: float
    """Of the whole build, all processes."""
    largest_process_gib: float
    nvcc: str | None
    log: str
    """Path of the build's log on the controller."""

    def serves(self, wanted: Key) -> bool:
        """Whether it is what a key asks for: code for its cards, or none at all where its kernels are compiled on the host."""
        codes, cards = set(self.codes), wanted.built_for.capabilities
        fits = all(native_for(codes, card) for card in cards) if recipe_for(wanted).compiled else not codes
        older = numbers(self.key.built_for.glibc) <= numbers(wanted.built_for.glibc)
        return fits and older and self.key.same_build(wanted)


class BuildCache:
    """All of them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, wanted: Key) -> Forged | None:
        """One that serves and whose wheel is undamaged."""
        for forged in self:
            if forged.serves(wanted) and self._store.find(forged.sha256, forged.name):
                return forged
        return None

    def put(self, forged: Forged) -> None:
        """Remember a wheel under its key; the one built last for a key counts."""
        self._store.put(_KIND, forged.key.slug, forged.model_dump(mode="json"))

    def __iter__(self) -> Iterator[Forged]:
        for path in sorted((self._store.root / _KIND).glob("*.json")):
            try:
                yield Forged.model_validate(self._store.get(_KIND, path.stem) or {})
            except ValidationError:
                continue  # of another release of this product

    def log_path(self, key: Key) -> Path:
        """Where the log of a build is kept."""
        return self._store.root / _KIND / f"{key.slug}.log"
