"""Rows about builds of vLLM and torch, and about vLLM's dependencies."""

from typing import Literal

from provision.catalog.rows import Row


class Release(Row):
    """A vLLM release and its wheel on the default package index."""

    version: str
    date: str | None = None
    """The day on which its first file was uploaded (2025-06-10)."""
    python: str
    torch: str
    cuda: str
    glibc: str
    machines: tuple[str, ...]
    core: tuple[str, ...]
    core_aarch64: tuple[str, ...] = ()
    fa2: tuple[str, ...] = ()
    fa3: tuple[str, ...] = ()
    fa4: bool = False
    flash_commit: str | None = None
    python_locked: tuple[str, ...] = ()
    torchvision: str | None = None
    torchaudio: str | None = None
    flashinfer: str | None = None
    flashinfer_cubin: bool = False

    def core_of(self, machine: str | None) -> tuple[str, ...]:
        """Return the GPU code of the main extension in the wheel for an architecture."""
        return self.core_aarch64 if machine == "aarch64" else self.core


class Build(Row):
    """A vLLM build that is not the default wheel: from another index, or under another name."""

    version: str
    variant: str
    provider: Literal["official", "community"]
    distribution: str
    glibc: str
    machines: tuple[str, ...]
    index: str | None = None
    isa: tuple[str, ...] = ()
    python_only: str | None = None
    torch: str | None = None
    """The torch that it was built with, if that is not the release's own pin."""
    gfx: tuple[str, ...] = ()


class Nightly(Row):
    """The vLLM project's index of builds between releases, for a platform."""

    platform: Literal["cpu", "cuda", "rocm"]
    index: str


class Proven(Row):
    """A set that was tried: a build of vLLM with its torch."""

    set: str
    """Name of the set, as a candidate's id."""
    machine: str
    how: Literal["loaded", "served"]
    on: str


class TorchStandIn(Row):
    """A CUDA build of torch on the default index with which a CPU build of vLLM was tried; for hosts that cannot get torch's CPU build."""

    version: str
    provider: Literal["official", "community"]
    machine: str
    torch: str
    variant: str


class BrokenReleases(Row):
    """vLLM releases that cannot be used as published, from `since` on, and the first that can."""

    since: str
    why: str
    cured: str


class SlicesByUuid(Row):
    """The first vLLM release that finds the UUID of a GPU's slice (MIG) in CUDA_VISIBLE_DEVICES."""

    since: str


class Horizon(Row):
    """How much newer than a release its dependencies may be, in days."""

    margin_days: int
    current_days: int
    """Releases at most this much older than the catalog's newest take today's dependencies."""


class Bound(Row):
    """A fixed range of a dependency for the vLLM releases `since` to `until`, both included."""

    distribution: str
    specifier: str
    why: str
    since: str | None = None
    until: str | None = None


class Timeline(Row):
    """Upload days of a dependency's minor releases, oldest first, at most one a month: `2025-07-25 4.54`."""

    distribution: str
    releases: tuple[str, ...]


class Torch(Row):
    """A torch release with its variants."""

    version: str
    python: str
    pythons: tuple[str, ...]
    glibc: str
    default_x86_64: str
    default_aarch64: str
    cuda: tuple[str, ...]
    cuda_aarch64: tuple[str, ...]
    rocm: tuple[str, ...]
    cxx11_abi: bool

    def default(self, machine: str | None) -> str:
        """Return the variant on the default index for an architecture; that for x86_64 where it is unknown."""
        return self.default_aarch64 if machine == "aarch64" else self.default_x86_64


class TorchArch(Row):
    """GPU code in a CUDA variant of torch, for a range of releases."""

    variant: str
    since: str
    until: str
    codes: tuple[str, ...]
    codes_aarch64: tuple[str, ...] = ()


class RocmArch(Row):
    """AMD architectures in a ROCm variant of torch."""

    variant: str
    gfx: tuple[str, ...]
