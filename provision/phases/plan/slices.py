"""Slices of GPUs (MIG) that the settings want, before they are made. Pure."""

from collections.abc import Mapping, Sequence

from provision.core.errors import InventoryError
from provision.core.models.facts import GpuSlice, HostFacts, NvidiaGpu
from provision.core.models.settings import Settings
from provision.phases.plan.cards import NVIDIA


def layout_of(wanted: Mapping[int, Sequence[str]]) -> str:
    """Return the slices of GPUs as role `gpu_slices` reads them: `0=3g.20gb,3g.20gb 1=`."""
    return " ".join(f"{index}={','.join(profiles)}" for index, profiles in sorted(wanted.items()))


def is_made(facts: HostFacts, layout: str) -> bool:
    """Return whether GPUs are split as a layout says, and are so at the next boot too."""
    gpus = {str(gpu.index): gpu for gpu in facts.nvidia.gpus} if facts.nvidia else {}
    found = (word.partition("=") for word in layout.split())
    kept = facts.nvidia.mig_layout == layout if facts.nvidia else False
    return kept and all(index in gpus and _is_split(gpus[index], profiles.split(",")) for index, _, profiles in found)


def _is_split(gpu: NvidiaGpu, profiles: Sequence[str]) -> bool:
    wanted = [profile for profile in profiles if profile]
    has = [part.profile or "" for part in gpu.slices]
    return sorted(has) == sorted(wanted) and (gpu.mig_mode == "enabled") == bool(wanted)


def with_slices(facts: HostFacts, settings: Settings) -> HostFacts:
    """Return the facts of a host with its GPUs split as the settings want.

    A slice that is to be made has the memory that its profile names, which is a little less than it will have, and no UUID.

    Raises:
        InventoryError: A GPU does not exist, or cannot be split.
    """
    if not settings.mig or facts.nvidia is None:
        return facts
    # Without a driver GPUs are known by the bus alone.
    on_bus = (gpu.address for gpu in facts.pci_gpus if gpu.vendor_id.lower() == NVIDIA)
    by_bus = (NvidiaGpu(index=index, pci_address=address, mig_mode="disabled") for index, address in enumerate(on_bus))
    gpus = {gpu.index: gpu for gpu in facts.nvidia.gpus or (() if facts.nvidia.driver_version else by_bus)}
    for index, profiles in settings.mig.items():
        gpu = gpus.get(index)
        if gpu is None or (profiles and gpu.mig_mode is None):
            raise InventoryError(
                f"host `{facts.host}`: firstlight_mig names GPU {index}, which {'cannot be split' if gpu else 'is not there'}",
                hint="./firstlight probe lists the GPUs; those of data centres since the A100 can be split, with a driver that answers",
            )
        if not _is_split(gpu, profiles):
            slices = tuple(
                GpuSlice(index=number, profile=profile, memory_total=_bytes(profile))
                for number, profile in enumerate(profiles)
            )
            mode = "enabled" if profiles else "disabled"
            gpus[index] = gpu.model_copy(
                update={
                    "mig_mode": mode,
                    "mig_devices": len(slices),
                    "mig_memory": slices[0].memory_total if slices else None,
                    "slices": slices,
                }
            )
    return facts.model_copy(update={"nvidia": facts.nvidia.model_copy(update={"gpus": tuple(gpus.values())})})


def _bytes(profile: str) -> int:
    """Return the memory in the name of a profile: 20 GB of `3g.20gb`."""
    return int(profile.partition(".")[2].partition("gb")[0]) * 10**9
