"""Rows about builds of vLLM and torch, vLLM's dependencies, attention kernels, and published advisories."""

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
    flash_commit: str | None = None
    python_locked: tuple[str, ...] = ()
    flashinfer: str | None = None


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


class Spelling(Row):
    """The option or variable with which a release takes a back end."""

    backend: str
    since: str
    flag: str
    ask: Literal["option", "environment"]
    until: str | None = None


class PlatformBackend(Row):
    """A back end that a platform can run for one kind of model."""

    platform: Literal["cuda", "rocm", "cpu"]
    backend: str
    since: str
    until: str | None = None
    minimum: str | None = None
    dtypes: tuple[str, ...] = ()
    only_requested: bool = False
    """Whether only a setting selects it."""
    model: Literal["usual", "latent", "sparse"] = "usual"
    majors: tuple[int, ...] = ()
    """The compute capability majors that it runs on; empty: all."""
    gfx: tuple[str, ...] = ()
    """The AMD architectures that it runs on; empty: all."""
    without_sinks: bool = False
    """Whether it supports no model with attention sinks."""
    without_prefix: bool = False
    """Whether it supports no model whose images see all of themselves."""
    caches: tuple[str, ...] = ()
    """The types of the KV cache that it supports; empty: all."""
    head_step: int = 1
    most_head_size: int | None = None
    head_sizes: tuple[int, ...] = ()
    """The head sizes that it supports; empty: all that the two fields above allow."""
    flash: bool = False
    """Whether its kernels compute flash attention."""
    kernels: str | None = None
    """Whose they are, where a platform has several."""
    environment: dict[str, str] | None = None
    """The variables that the service needs for it; `{cache}` stands for the service's start cache."""


class Generation(Row):
    """The FlashAttention generation that FLASH_ATTN uses, and the extension that contains it."""

    since: str
    generation: Literal[2, 3, 4]
    extension: Literal["fa2", "fa3", "fa4"]
    until: str | None = None
    major: int | None = None
    most_head_size: int | None = None
    with_alibi: bool = True


class FlashCompiler(Row):
    """The program that compiles an extension's kernels on the host, and the oldest driver it accepts with builds of a CUDA major."""

    extension: Literal["fa2", "fa3", "fa4"]
    name: str
    major: int
    driver: str


class FlashWheels(Row):
    """Wheels of one flash-attn release."""

    version: str
    torch: tuple[str, ...]
    pythons: tuple[str, ...]
    codes: tuple[str, ...]
    glibc: str
    machines: tuple[str, ...]
    without: tuple[str, ...] = ()


class OwnWheels(FlashWheels):
    """The wheels of its authors."""

    cuda: tuple[str, ...]
    driver: str | None = None
    """The oldest driver that reads their GPU code; absent if the floor of their CUDA major applies."""


class CommunityWheels(FlashWheels):
    """Third-party wheels."""

    variant: str
    """The CUDA of the wheel, as torch spells it: `cu130`."""
    platform: str
    """The platform tag in the file's name."""
    repository: str
    """The GitHub repository that publishes them."""


class FlashSource(Row):
    """A flash-attn release that is published as source; the ranges are the ones in its metadata and documentation."""

    version: str
    torch: str
    python: str
    rocm: str
    machines: tuple[str, ...]
    codes: tuple[str, ...]
    gfx: tuple[str, ...] = ()
    """The AMD architectures that its Composable Kernel sources have code for."""
    triton: bool = False
    """Whether it has kernels in Triton for all other AMD cards."""


class FlashAttn4(Row):
    """A release of flash-attn-4, whose kernels are compiled at first use, and what it is installed beside."""

    version: str
    since: str
    """The first vLLM release whose pins it meets, and whose code accepts a `flash_attn` without generation 2."""
    until: str | None = None
    cuda_major: int
    """CUDA major of the vLLM builds that bring its compiler."""
    majors: tuple[int, ...]
    """The compute capability majors with all of its kernels: paged caches, forward and backward."""
    without: tuple[str, ...] = ()
    """Classes of models that vLLM cannot load beside it."""


class FlashInfer(Row):
    """A distribution with prebuilt FlashInfer kernels for a range of its releases, and its index."""

    distribution: str
    since: str
    minimum_cuda: str
    until: str | None = None
    index: str | None = None


Product = Literal["vllm", "torch", "transformers", "xgrammar", "nvidia-driver", "nvidia-container-toolkit"]
Needs = Literal["nothing", "model", "media", "audio", "several-hosts", "unguarded-key", "own-programs"]


class Advisory(Row):
    """An advisory about the versions `since` to `fixed`, the first included, the last not."""

    id: str
    product: Product
    fixed: str
    allows: str
    """One sentence: what it lets an attacker do."""
    since: str = "0"
    severity: float | None = None
    """The CVSS base score; absent if the record has none."""
    needs: Needs = "nothing"
    """What the host must do to be affected; see advisories.toml."""
    option: str | None = None
    """A part of the arguments of `vllm serve` without which the host is not affected: an option with or without its value."""
    architecture: str | None = None
    """A regular expression for the model's architecture; others are not affected."""
