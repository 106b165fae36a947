"""AMD facts of a host: cards from the amdgpu driver's topology, rocminfo and amd-smi, each enough alone, merged by PCI address."""

import re
from typing import Any

from provision.catalog.versions import numbers
from provision.core.models.facts import Amd, AmdGpu, GpuProcess
from provision.phases.probe.parsers.hardware import AMD, Bus
from provision.phases.probe.parsers.values import integer, json_value, known, pci_address, size
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


def compute_processes(section: Section) -> tuple[GpuProcess, ...]:
    """Return processes that use device memory, one entry per process and card.

    The driver's numbers of cards differ from ROCm's indexes.
    """
    found = []
    for path, line in section.by_file():
        match = re.search(r"/kfd/proc/([0-9]{1,10})/vram_([0-9]{1,10})$", path)
        used = integer(line)
        if match and used:
            found.append(GpuProcess(pid=int(match[1]), memory=used, gpu=match[2]))
    return tuple(found)


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


def amd_smi(section: Section) -> tuple[tuple[AmdGpu, ...], str | None]:
    """Return cards and the driver's version in the answer of `amd-smi static --json`.

    The output is a list, and from ROCm 7 on an object with `gpu_data`. Before 6.1, sizes are plain numbers of MB.
    """
    start = min((at for at in (section.text.find("["), section.text.find("{")) if at >= 0), default=0)
    value = json_value(section.text[start:])
    entries = value.get("gpu_data") if isinstance(value, dict) else value
    cards: list[AmdGpu] = []
    driver = None
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict):
            continue
        asic, bus, vram = _part(entry, "asic"), _part(entry, "bus"), _part(entry, "vram")
        gfx = _GFX.match(_text(asic, "target_graphics_version"))
        total = next((vram[key] for key in ("size", "size_mb", "vram_size_mb") if key in vram), None)
        if isinstance(total, dict):
            total = f"{total.get('value')} {total.get('unit')}"
        cards.append(
            AmdGpu(
                index=len(cards),
                pci_address=pci_address(_text(bus, "bdf")),
                name=known(_text(asic, "market_name")),
                gfx=gfx[0] if gfx else None,
                memory_total=size(total if isinstance(total, str) and not total.isdecimal() else f"{total} MB"),
            )
        )
        details = _part(entry, "driver")
        driver = driver or known(_text(details, "version") or _text(details, "driver_version"))
    return tuple(cards), driver


def rocm_version(section: Section) -> str | None:
    """Return the version of /opt/rocm, else of the newest /opt/rocm-* folder, without the build number."""
    found = {path: line.partition("-")[0] for path, line in section.by_file() if re.match(r"[0-9]+\.[0-9]", line)}
    return found.get("/opt/rocm/.info/version") or max(found.values(), key=numbers, default=None)


def _address(location: int | None, domain: int) -> str | None:
    # The location packs bus, device and function into 8, 5 and 3 bits.
    if location is None or location > 0xFFFF or domain > 0xFFFFFFFF:
        return None
    return f"{domain:04x}:{location >> 8:02x}:{location >> 3 & 0x1F:02x}.{location & 7}"


def _leading(text: str | None) -> int | None:
    match = re.match(r"[0-9]{1,15}", text or "")
    return int(match[0]) if match else None


def _part(entry: dict[str, Any], key: str) -> dict[str, Any]:
    part = entry.get(key)
    return part if isinstance(part, dict) else {}


def _text(part: dict[str, Any], key: str) -> str:
    value = part.get(key)
    return value if isinstance(value, str) else ""


def merge(*views: tuple[AmdGpu, ...]) -> tuple[AmdGpu, ...]:
    """Merge views into one entry per card, in the order of the first view that has cards; earlier values win."""
    merged: list[AmdGpu] = []
    for view in views:
        if not merged:
            merged = list(view)
            continue
        for card in view:
            same = [at for at, other in enumerate(merged) if card.pci_address and card.pci_address == other.pci_address]
            for at in same[:1]:
                merged[at] = card.model_copy(update=merged[at].model_dump(exclude_none=True))
    return tuple(merged)


def amd(output: Output, bus: Bus, unknown: dict[str, str]) -> Amd | None:
    """Return the AMD facts; None for a host without AMD accelerators."""
    kfd, rocminfo, smi = output["kfd"], output["rocminfo_agents"], output["amd_smi"]
    smi_cards, driver = amd_smi(smi)
    cards = merge(topology(kfd), agents(rocminfo), smi_cards)
    version = rocm_version(output["rocm"])
    if not (bus.of(AMD) or cards or version):
        return None
    rocminfo.note_failure(unknown, "amd.rocminfo", may_be_absent=True)
    smi.note_failure(unknown, "amd.amd-smi", may_be_absent=True)
    if not cards:
        unknown["amd.gpus"] = (
            "; ".join(section.failure for section in (kfd, rocminfo, smi) if not section.ok) or "no tool shows a GPU"
        )
    return Amd(
        driver_version=known(output["modules"].value("amdgpu_version")) or driver,
        rocm_version=version,
        gpus=cards,
    )
