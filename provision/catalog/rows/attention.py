"""Rows about attention back ends, generations of FlashAttention, and packages with attention kernels."""

from typing import Literal

from provision.catalog.rows import Row


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
    sinks: tuple[int, ...] = ()
    """The compute capability majors on which it supports models with attention sinks; empty: all."""
    without_sinks: bool = False
    """Whether it supports no model with attention sinks."""
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
