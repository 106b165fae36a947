"""AMD facts of a host: cards from the amdgpu driver's topology, with what rocminfo adds by PCI address; each enough alone."""

import re

from provision.catalog.versions import numbers
from provision.core.models.facts import Amd, AmdGpu
from provision.phases.probe.parsers.hardware import AMD, Bus
from provision.phases.probe.parsers.values import integer, known
from provision.phases.probe.sections import Output, Section

# Heaps of device memory in the driver's topology: public and private frame buffer.
_DEVICE_HEAPS = {"1", "2"}
_GFX = re.compile(r"gfx[0-9a-f]{3,5}")


def gfx_name(target: int) -> str | None:
    """Return `gfx942` for 90402: decimal major, minor and stepping; the last two are written in hexadecimal."""
    major, minor, stepping = target // 10000, target // 100 % 100, target % 100
    return f"gfx{major}{minor:x}{stepping:x}" if 0 < major < 100 and minor < 16 and stepping < 16 else None


def topology(section: Section) -> tuple[AmdGpu, ...]:
    """Return cards in the driver's order, which is ROCm's order too."""
    nodes: dict[int, dict[str, str]] = {}
    memory: dict[int, int] = {}
    heap = ""
    for path, line in section.by_file():
        match = re.search(r"/nodes/([0-9]{1,4})/(mem_banks/)?", path)
        key, _, value = line.partition(" ")
        if not match:
            continue
        number = int(match[1])
        if not match[2]:
            nodes.setdefault(number, {})[key] = value.strip()
        elif key == "heap_type":
            heap = value.strip()
        elif key == "size_in_bytes" and heap in _DEVICE_HEAPS:
            memory[number] = memory.get(number, 0) + (integer(value) or 0)
    cards = [(number, node) for number, node in sorted(nodes.items()) if (integer(node.get("simd_count")) or 0) > 0]
    return tuple(
        AmdGpu(
            index=index,
            pci_address=_address(integer(node.get("location_id")), integer(node.get("domain")) or 0),
            gfx=gfx_name(integer(node.get("gfx_target_version")) or 0),
            uuid=f"GPU-{unique:016x}" if (unique := integer(node.get("unique_id"))) else None,
            memory_total=memory.get(number) or None,
        )
        for index, (number, node) in enumerate(cards)
    )


def agents(section: Section) -> tuple[AmdGpu, ...]:
    """Return GPU agents of rocminfo."""
    found: list[AmdGpu] = []
    for block in re.split(r"^Agent \d+\s*$", section.text, flags=re.MULTILINE)[1:]:
        fields: dict[str, str] = {}
        for key, value in re.findall(r"^ +([A-Za-z][A-Za-z .()]*?): +(.*?) *$", block, re.MULTILINE):
            fields.setdefault(key, value)
        if fields.get("Device Type") == "GPU":
            gfx = _GFX.match(fields.get("Name", ""))
            # rocminfo prints `GPU-XX` for cards without a unique number.
            uuid = re.fullmatch(r"GPU-[0-9a-fA-F]{8,32}", fields.get("Uuid", ""))
            found.append(
                AmdGpu(
                    index=len(found),
                    pci_address=_address(_leading(fields.get("BDFID")), _leading(fields.get("Domain")) or 0),
                    name=known(fields.get("Marketing Name")),
                    gfx=gfx[0] if gfx else None,
                    uuid=uuid[0] if uuid else None,
                    memory_total=(_leading(fields.get("Size")) or 0) << 10 or None,
                )
            )
    return tuple(found)


def rocm_version(section: Section) -> str | None:
    """Return the version of /opt/rocm, else of the newest /opt/rocm-* folder, without the build number."""
    found = {path: line.partition("-")[0] for path, line in section.by_file() if re.match(r"[0-9]+\.[0-9]", line)}
    return found.get("/opt/rocm/.info/version") or max(found.values(), key=numbers, default=None)


def _address(location: int | None, domain: int) -> str | None:
    # The location packs bus, device and function into 8, 5 and 3 bits; above them newer drivers number partitions.
    if location is None or domain > 0xFFFFFFFF:
        return None
    return f"{domain:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.{location & 7}"


def _leading(text: str | None) -> int | None:
    match = re.match(r"[0-9]{1,15}", text or "")
    return int(match[0]) if match else None


def merged(cards: tuple[AmdGpu, ...], agents: tuple[AmdGpu, ...]) -> tuple[AmdGpu, ...]:
    """Return the driver's cards with what rocminfo knows besides; its agents where the driver shows none."""
    same = {agent.pci_address: agent for agent in agents if agent.pci_address}
    return tuple(
        same.get(card.pci_address or "", card).model_copy(update=card.model_dump(exclude_none=True))
        for card in cards or agents
    )


def amd(output: Output, bus: Bus, unknown: dict[str, str]) -> Amd | None:
    """Return the AMD facts; None for a host without AMD accelerators."""
    kfd, rocminfo = output["kfd"], output["rocminfo_agents"]
    cards = merged(topology(kfd), agents(rocminfo))
    version = rocm_version(output["rocm"])
    if not (bus.of(AMD) or cards or version):
        return None
    rocminfo.note_failure(unknown, "amd.rocminfo", may_be_absent=True)
    if not cards:
        unknown["amd.gpus"] = (
            "; ".join(section.failure for section in (kfd, rocminfo) if not section.ok) or "no tool shows a GPU"
        )
    return Amd(
        driver_version=known(output["modules"].value("amdgpu_version")),
        rocm_version=version,
        gpus=cards,
    )
