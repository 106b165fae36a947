"""The rows of the tables of attention: back ends, FlashAttention's generations, and who publishes which of the kernels."""

from __future__ import annotations

from typing import Literal

from provision.catalog.rows import Row, table_row


@table_row
class Spelling(Row):
    """How a release wants a back end to be asked for."""

    backend: str
    since: str
    flag: str
    ask: Literal["option", "environment"]
    until: str | None = None


@table_row
class PlatformBackend(Row):
    """A back end that a platform can run for one kind of model; `only_requested` is never chosen unasked."""

    platform: Literal["cuda", "rocm", "cpu"]
    backend: str
    since: str
    until: str | None = None
    minimum: str | None = None
    dtypes: tuple[str, ...] = ()
    only_requested: bool = False
    model: Literal["usual", "latent", "sparse"] = "usual"
    majors: tuple[int, ...] = ()
    """Compute capability majors of the cards that it runs on; empty: all."""
    sinks: tuple[int, ...] = ()
    """The same for models with attention sinks."""
    head_step: int = 1
    most_head_size: int | None = None
    flash: bool = False
    """Whether its kernels are those of FlashAttention."""


@table_row
class Generation(Row):
    """The FlashAttention generation that FLASH_ATTN uses, and the extension that holds it."""

    since: str
    generation: Literal[2, 3, 4]
    extension: Literal["fa2", "fa3", "fa4"]
    until: str | None = None
    major: int | None = None


@table_row
class FlashCompiler(Row):
    """What compiles an extension's kernels on the host, and the oldest driver it takes beside builds of a CUDA major."""

    extension: Literal["fa2", "fa3", "fa4"]
    name: str
    major: int
    driver: str


@table_row
class FlashWheels(Row):
    """The wheels of one flash-attn release."""

    version: str
    torch: tuple[str, ...]
    cuda: tuple[str, ...]
    pythons: tuple[str, ...]
    codes: tuple[str, ...]
    glibc: str
    machines: tuple[str, ...]
    without: tuple[str, ...] = ()
    driver: str | None = None
    """The oldest driver that reads their GPU code; null where the floor of their CUDA major holds."""


@table_row
class CommunityWheels(Row):
    """Wheels of a flash-attn release that others than its authors build: for each torch, one for every Python."""

    version: str
    variant: str
    """CUDA of the wheel, as torch writes it: `cu130`."""
    torch: tuple[str, ...]
    pythons: tuple[str, ...]
    codes: tuple[str, ...]
    glibc: str
    machine: str
    platform: str
    """Platform tag in the file's name."""
    repository: str
    """Whose they are, at GitHub."""


@table_row
class FlashSource(Row):
    """A flash-attn release that the package index holds as source; the ranges are those that its own texts name."""

    version: str
    torch: str
    python: str
    rocm: str
    machines: tuple[str, ...]
    codes: tuple[str, ...]
    gfx: tuple[str, ...] = ()


@table_row
class FlashInfer(Row):
    """A distribution that holds prebuilt kernels of FlashInfer, for a range of its releases, and the index that serves it."""

    distribution: str
    since: str
    minimum_cuda: str
    until: str | None = None
    index: str | None = None
