"""Devices that a host serves on, and the split of a model over them."""

from math import gcd
from typing import Literal

from pydantic import Field

from provision.catalog.versions import numbers, platform_of
from provision.core.errors import InventoryError
from provision.core.models.base import Record
from provision.core.models.facts import AmdGpu, GpuSlice, HostFacts, NvidiaGpu
from provision.core.models.settings import Settings
from provision.core.models.stack import Stack

Platform = Literal["cuda", "rocm", "cpu"]


class Devices(Record):
    """Chosen devices of one host, and the split of the model. `indexes` are in PCI order, and empty for a CPU host."""

    platform: Platform
    indexes: tuple[int, ...] = ()
    names: tuple[str, ...] = Field(default=(), exclude=True)
    """What a container calls NVIDIA's (CDI): their UUIDs, and a slice by its indexes. They are no part of a start cache, which GPUs of one kind share."""
    wsl: bool = Field(default=False, exclude=True)
    """Whether they are of Windows, whose driver has one device for all of them."""
    part: GpuSlice | None = None
    """The slice of the one GPU that serves; None for whole GPUs."""
    compute_capability: str | None = None
    """The lowest one among the chosen GPUs."""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    hosts: int = 1
    """Hosts that the model is spread over."""

    @property
    def processes(self) -> int:
        """Return the number of engine processes with attention layers on this host."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel // self.hosts


def choose_devices(stack: Stack, settings: Settings, facts: HostFacts, *, attention_heads: int | None) -> Devices:
    """Return the GPUs that the plan chose (all where it names none), with a split over as many as the model allows.

    Args:
        attention_heads: Query heads, which tensor parallelism has to divide; None where unknown.

    Raises:
        InventoryError: No GPU works, or the requested split needs more GPUs than are chosen.
    """
    platform = platform_of(stack.variant)
    pipeline, span = settings.pipeline(on_cpu=platform == "cpu"), settings.span
    others = pipeline * settings.data_parallel
    used: list[NvidiaGpu | AmdGpu] = []
    part: GpuSlice | None = None
    if platform == "cpu":
        tensor = settings.tensor_parallel or span // gcd(span, pipeline)
        if tensor * others % span:
            raise InventoryError(
                f"host `{facts.host}`: tensor {tensor} x pipeline {pipeline} parallel gives {tensor * others} processes, "
                f"which cannot be divided by {span} hosts",
                hint="leave firstlight_tensor_parallel and firstlight_pipeline_parallel out",
            )
    else:
        cards = _cards(platform, facts)
        chosen = [cards[index] for index in stack.gpus] if stack.gpus else [*cards.values()]
        available = len(chosen) * span
        planned = stack.model.tensor_parallel if stack.model else None
        limit = max(available // others, 1)
        # The largest number that divides the heads, where these are known.
        sizes = [size for size in range(1, limit + 1) if (attention_heads or limit) % size == 0]
        tensor = settings.tensor_parallel or planned or sizes[-1]
        if tensor * others > available or tensor * others % span:
            on = f" on {span} hosts, equally many on each" if span > 1 else ""
            raise InventoryError(
                f"host `{facts.host}`: tensor {tensor} x pipeline {pipeline} x data {settings.data_parallel}"
                f" parallel needs {tensor * others} GPUs, {available} are chosen{on}",
                hint="lower firstlight_tensor_parallel, firstlight_pipeline_parallel or firstlight_data_parallel, or name more GPUs in firstlight_gpus",
            )
        used = chosen[: tensor * others // span]
        part = _part(used[0], stack.gpu_slice, facts.host) if stack.gpu_slice is not None else None
    names = tuple(str(card.uuid or card.index) for card in used if isinstance(card, NvidiaGpu))
    if part is not None:
        names = (f"{used[0].index}:{part.index}",)
    capabilities = [card.compute_capability for card in used if isinstance(card, NvidiaGpu) and card.compute_capability]
    return Devices(
        platform=platform,
        indexes=tuple(card.index for card in used),
        names=names,
        wsl=bool(facts.wsl),
        part=part,
        compute_capability=min(capabilities, key=numbers, default=None),
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        data_parallel=settings.data_parallel,
        hosts=span,
    )


def _cards(platform: Platform, facts: HostFacts) -> dict[int, NvidiaGpu | AmdGpu]:
    vendor = facts.nvidia if platform == "cuda" else facts.amd
    if vendor is None or not vendor.gpus:
        raise InventoryError(
            f"host `{facts.host}`: the plan is for {platform.upper()} GPUs, and the probe found none that works",
            hint=f"look at the driver: ./firstlight probe --limit {facts.host}",
        )
    return {card.index: card for card in vendor.gpus}


def _part(card: NvidiaGpu | AmdGpu, index: int, host: str) -> GpuSlice:
    """Return a slice of a GPU."""
    parts = card.slices if isinstance(card, NvidiaGpu) else ()
    found = next((part for part in parts if part.index == index and part.uuid), None)
    if found is None:
        raise InventoryError(
            f"host `{host}`: GPU {card.index} has no slice {index}, or nvidia-smi does not tell its UUID",
            hint="nvidia-smi -L on the host lists the slices",
        )
    return found
