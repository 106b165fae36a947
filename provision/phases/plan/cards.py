"""The cards of a host, by their names in the catalog: their slices (MIG), present or wanted, the server, and how GPU code covers them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from typing import Any

from provision.catalog import catalog
from provision.catalog.rows.hardware import AmdCard as AmdRow
from provision.catalog.rows.hardware import NvidiaCard as NvidiaRow
from provision.catalog.versions import newest_first, numbers
from provision.core.errors import InventoryError
from provision.core.formatting import GIB
from provision.core.models.facts import BusDevice, GpuSlice, HostFacts, NvidiaGpu, PciGpu
from provision.core.models.settings import Settings
from verify.binaries.elf import compiled_for, native_for

NVIDIA = "10de"
AMD = "1002"
ACCELERATOR = "12"
"""How PCI's class of processing accelerators begins."""
VGPU = "VGPU"
"""The virtualization mode that nvidia-smi reports in a guest."""

_DECORATION = {
    "nvidia", "amd", "geforce", "tesla", "quadro", "instinct", "radeon", "generation", "blackwell", "edition", "server", "workstation",
    "max", "q", "ac", "hbm2", "hbm2e", "hbm3", "hbm3e", "oam", "accelerator",
}  # fmt: skip

SLACK = 32 << 20
"""Bytes by which the memory of equal devices may differ."""


@dataclass(frozen=True)
class Slice:
    """A slice of a card in MIG mode."""

    index: int
    profile: str | None = None
    memory_gib: int | None = None


@dataclass(frozen=True)
class Card:
    """A GPU. `name` is the catalog's, else the host's."""

    vendor: str
    index: int
    name: str
    compute_capability: str | None = None
    """Of an NVIDIA card."""
    gfx: str | None = None
    """The architecture of an AMD card."""
    memory_gib: int | None = None
    row: NvidiaRow | None = field(default=None, compare=False)
    mig: bool = False
    slices: int = 0
    """MIG devices on the card."""
    parts: tuple[Slice, ...] = ()
    """Those that the driver describes."""
    part: Slice | None = None
    """The slice that serves, whose memory is the card's; None for the whole card."""
    virtual: bool = False
    """Whether the card is a vGPU, whose driver must match the hypervisor."""

    @property
    def kind(self) -> tuple[Any, ...]:
        """Return the fields that are equal for cards of one kind."""
        return (self.name, self.compute_capability, self.gfx, self.memory_gib, self.mig)

    @property
    def place(self) -> int | str:
        """Return what the setting `gpus` calls it: `0`, and slice 1 of it `0:1`."""
        return f"{self.index}:{self.part.index}" if self.part else self.index

    def sliced(self) -> tuple["Card", ...]:
        """Return each slice as a card with the memory of that slice."""
        return tuple(replace(self, memory_gib=part.memory_gib, part=part) for part in self.parts)

    def worth(self, count: int) -> tuple[Any, ...]:
        """Return the rank of a kind of `count` cards of one vendor; integrated graphics rank last.

        By code in the newest release, memory in total, MIG off, number of cards, compute capability, memory of a card.
        """
        memory, capability = self.memory_gib or 0, numbers(self.compute_capability or "0")
        return (not self.integrated, self.runs, count * memory, not self.mig, count, capability, memory, self.name)

    @property
    def runs(self) -> bool:
        """Return whether the newest release has code for it."""
        if self.vendor == AMD:
            return self.gfx in newest_first(row for row in catalog().builds if row.gfx)[0].gfx
        core, capability = newest_first(catalog().releases)[0].core, self.compute_capability
        return capability is None or coverage(core, capability) is not Coverage.NONE

    @property
    def integrated(self) -> bool:
        """Return whether it is integrated graphics."""
        return any(self.gfx in row.gfx for row in catalog().integrated_graphics)


_SIZE = r"(\d+)gb?"


def plain_name(text: str) -> str:
    """Return a marketing name without vendor, brand, memory size, form factor and blanks: `NVIDIA A100-SXM4-80GB` gives `a100`."""
    words = _words(text)
    words = [word for word in words if not re.fullmatch(rf"{_SIZE}|sxm\d?", word) or word == words[0]]
    return re.sub(r"sxm\d?$", "", "".join(words))


def named_size(text: str) -> int | None:
    """Return the memory size in a marketing name, in GB: `NVIDIA A100-SXM4-80GB` gives 80; None if it has none."""
    return next((int(found[1]) for word in _words(text)[1:] if (found := re.fullmatch(_SIZE, word))), None)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s\-_]+", text.strip().lower()) if word and word not in _DECORATION]


@cache
def nvidia_by_name(name: str) -> NvidiaRow | None:
    """Return the catalog's row for the marketing name of a card, or of a machine with one such card; None if there is none."""
    rows = {plain_name(known): row for row in catalog().nvidia_cards for known in (row.name, *row.machines)}
    return rows.get(plain_name(name))


@cache
def nvidia_by_id(device_id: str) -> NvidiaRow | None:
    """Return the catalog's row for a PCI device id."""
    return {identity: row for row in catalog().nvidia_cards for identity in row.ids}.get(device_id.lower())


@cache
def nvidia_capability(device_id: str) -> str | None:
    """Return the compute capability of the range that a PCI device id is in."""
    ranges = catalog().pci_ranges
    return next((row.compute_capability for row in ranges if row.first <= device_id.lower() <= row.last), None)


@cache
def amd_row(name: str, device_id: str = "") -> AmdRow | None:
    """Return the catalog's row for the marketing name of an AMD card, else for its PCI device id."""
    by_name = {plain_name(row.name): row for row in catalog().amd_cards}
    by_id = {identity: row for row in catalog().amd_cards for identity in row.ids}
    return by_name.get(plain_name(name)) or by_id.get(device_id.lower())


def nvidia_cards(facts: HostFacts) -> tuple[Card, ...]:
    """Return the NVIDIA cards: as the driver names them; by their PCI ids where it names none that the catalog has."""
    if facts.nvidia is not None and facts.nvidia.gpus:
        ids = {gpu.address: gpu.device_id for gpu in facts.pci_gpus}
        return tuple(_nvidia_card(gpu, ids.get(gpu.pci_address or "", "")) for gpu in facts.nvidia.gpus)
    ids_on_bus = (gpu.device_id for gpu in facts.pci_gpus if gpu.vendor_id.lower() == NVIDIA and not only_shows(gpu))
    return tuple(
        _nvidia_card(NvidiaGpu(index=index, name=f"NVIDIA GPU {device_id}"), device_id)
        for index, device_id in enumerate(ids_on_bus)
    )


def only_shows(gpu: PciGpu) -> bool:
    """Return whether an NVIDIA GPU is of a generation that the catalog leaves out as too old: it only shows a screen."""
    capability = nvidia_capability(gpu.device_id) if gpu.vendor_id.lower() == NVIDIA else None
    return capability is not None and capability not in {row.compute_capability for row in catalog().architectures}


def _nvidia_card(gpu: NvidiaGpu, device_id: str) -> Card:
    row = (nvidia_by_name(gpu.name) if gpu.name else None) or nvidia_by_id(device_id)
    is_split = gpu.mig_mode == "enabled"
    memory = _gib(gpu.mig_memory if is_split else gpu.memory_total)
    if memory is None and row is not None and not is_split:
        memory = (row.smaller or {}).get(device_id.lower(), row.memory_gib)
    return Card(
        NVIDIA,
        index=gpu.index,
        name=row.name if row else gpu.name or "unnamed NVIDIA GPU",
        compute_capability=gpu.compute_capability or (row.compute_capability if row else nvidia_capability(device_id)),
        memory_gib=memory,
        row=row,
        mig=is_split,
        slices=gpu.mig_devices,
        parts=tuple(Slice(part.index, part.profile, _gib(part.memory_total)) for part in gpu.slices),
        virtual=(gpu.virtualization or "").upper() == VGPU,
    )


def amd_cards(facts: HostFacts) -> tuple[Card, ...]:
    """Return the AMD cards: by their names in ROCm or their PCI ids. Without ROCm, integrated graphics that no build has code for are none; an accelerator that the catalog lacks is one."""
    on_bus = [gpu for gpu in facts.pci_gpus if gpu.vendor_id.lower() == AMD]
    if facts.amd is not None and facts.amd.gpus:
        # Partitions of a card have its address, but another function.
        ids = {gpu.address[:-1]: gpu.device_id for gpu in on_bus}
        cards = (
            Card(
                AMD,
                gpu.index,
                row.name if row else gpu.name or "unnamed AMD GPU",
                gfx=gpu.gfx or (row.gfx if row else None),
                memory_gib=_gib(gpu.memory_total) or (row.memory_gib if row else None),
            )
            for gpu in facts.amd.gpus
            for row in [amd_row(gpu.name or "", ids.get((gpu.pci_address or "")[:-1], ""))]
        )
        built = {gfx for row in catalog().builds for gfx in row.gfx}
        return tuple(card for card in cards if facts.amd.rocm_version or not card.integrated or card.gfx in built)
    found = [(gpu, amd_row("", gpu.device_id)) for gpu in on_bus]
    is_own = facts.container is None and not facts.wsl  # where a driver can be installed
    known = [(gpu, row) for gpu, row in found if row or (is_own and gpu.class_id.startswith(ACCELERATOR))]
    return tuple(
        Card(AMD, index, row.name if row else f"AMD GPU {gpu.device_id}", gfx=row.gfx if row else None)
        for index, (gpu, row) in enumerate(known)
    )


def _gib(total: int | None) -> int | None:
    """Return memory in whole GiB. Partitions of one card differ by some MiB, so a little less counts as the next GiB."""
    return None if total is None else (total + SLACK) // GIB


def found_as(part: Slice, cards: Iterable[Card]) -> Card | None:
    """Return the card that vLLM takes for a slice: the one whose index is that of the slice on its card; None if there is none."""
    return next((card for card in cards if card.vendor == NVIDIA and card.index == part.index), None)


def is_found(card: Card, cards: Iterable[Card]) -> bool:
    """Return whether vLLM reads the properties of a slice's card from one of its kind."""
    same = found_as(card.part, cards) if card.part else card
    return same is not None and (same.name, same.compute_capability) == (card.name, card.compute_capability)


def serving(cards: tuple[Card, ...], *, shared: bool = False) -> tuple[Card, ...]:
    """Return the cards that serve if the settings name none: those of the best kind. A process sees one slice, so one split card serves, unless services share the cards."""
    if not cards:
        return ()
    count = Counter(card.kind for card in cards if shared or not card.mig)
    best = max(cards, key=lambda card: card.worth(count[card.kind] or 1))
    return tuple(card for card in cards if card.kind == best.kind) if count[best.kind] else (best,)


class Coverage(Enum):
    NATIVE = "native"
    PTX = "ptx"
    NONE = "none"


@cache
def coverage(codes: tuple[str, ...], compute_capability: str) -> Coverage:
    """Return how a set of codes covers a card.

    Native code runs on a card of the same major number and an equal or higher minor one; PTX on any equal or newer card.
    """
    if native_for({*codes}, compute_capability):
        return Coverage.NATIVE
    return Coverage.PTX if compiled_for({*codes}, compute_capability) else Coverage.NONE


def all_native(codes: tuple[str, ...], compute_capabilities: Iterable[str]) -> bool:
    """Return whether codes contain native code for every card."""
    return all(coverage(codes, card) is Coverage.NATIVE for card in compute_capabilities)


def written(codes: Iterable[str]) -> str:
    """Return codes as NVIDIA writes them: `sm_80, compute_80`."""
    return ", ".join(f"compute_{item[1:]}" if item.startswith("p") else f"sm_{item}" for item in codes)


@dataclass(frozen=True)
class Server:
    """A host whose product has a row, with what the row says and what the bus shows."""

    name: str
    gpus: int
    found: int
    nics: int | None
    """None where the product is sold without them, or the bus could not be read."""
    nics_found: int
    """Network cards behind one PCIe switch with a GPU."""
    source: str


def server_of(facts: HostFacts) -> Server | None:
    """Return the product of a host; None without a row, with other GPUs than the row names, and where some of its GPUs may be hidden."""
    if facts.product is None or facts.container or facts.wsl:
        return None
    row = next((row for row in catalog().servers if re.fullmatch(row.match, facts.product)), None)
    if row is None or (facts.virtualization and not row.virtual):
        return None
    cards = [card.name for card in (*nvidia_cards(facts), *amd_cards(facts)) if not card.integrated]
    # A card in partitions counts once.
    found = min(sum(name in row.cards for name in cards), len(facts.pci_gpus) or row.gpus)
    if cards and not found:
        return None
    devices = facts.topology.devices if facts.topology else ()
    switches = {_pcie_switch(device) for device in devices if device.kind == "card"}
    network = [device for device in devices if device.kind == "network" and _pcie_switch(device) in switches]
    near = {device.address.partition(".")[0] for device in network}
    return Server(row.name, row.gpus, found, row.nics if devices else None, len(near), row.source)


def _pcie_switch(device: BusDevice) -> tuple[str, ...] | str:
    """Return the root port and the switch below it; a device without a switch has one of its own."""
    return device.bridges[:2] if len(device.bridges) > 1 else device.address


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
    on_bus = (gpu.address for gpu in facts.pci_gpus if gpu.vendor_id.lower() == NVIDIA and not only_shows(gpu))
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
                GpuSlice(index=number, profile=profile, memory_total=_slice_bytes(profile))
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


def _slice_bytes(profile: str) -> int:
    """Return the memory in the name of a profile: 20 GB of `3g.20gb`."""
    return int(profile.partition(".")[2].partition("gb")[0]) * 10**9
