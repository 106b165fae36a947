"""The build key of a package: all that decides whether its wheel loads with a Stack's torch and has code for its cards."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.utils import canonicalize_name

from provision.catalog.versions import numbers
from provision.core.models.base import Record
from provision.core.models.stack import FlashAttnKey, FlashAttnPackage

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
        return self._rest() == other._rest()

    def covering(self, others: Iterable[BuildKey]) -> BuildKey:
        """Return the key with the cards of all others that one build can serve, and the oldest of their C libraries."""
        keys = [self, *(other for other in others if self.same_build(other))]
        cards = {capability for key in keys for capability in key.built_for.capabilities}
        glibc = min((key.built_for.glibc for key in keys), key=numbers)
        ordered = tuple(sorted(cards, key=numbers)) if self.platform == "cuda" else tuple(sorted(cards))
        return self.model_copy(
            update={"built_for": self.built_for.model_copy(update={"capabilities": ordered, "glibc": glibc})}
        )

    def _rest(self) -> BuildKey:
        return self.model_copy(
            update={"built_for": self.built_for.model_copy(update={"capabilities": (), "glibc": ""})}
        )
