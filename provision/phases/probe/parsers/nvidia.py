"""NVIDIA facts of a host, from nvidia-smi, bus, kernel module and fabric manager."""

import re
from typing import Literal, TypeAlias
from xml.etree import ElementTree as ET

from provision.core.models.facts import GpuSlice, Nvidia, NvidiaGpu
from provision.phases.probe.parsers.hardware import NVIDIA, Bus
from provision.phases.probe.parsers.values import integer, known, pci_address, size, version
from provision.phases.probe.sections import Output, Section

_MODES: dict[str, Literal["enabled", "disabled"]] = {"enabled": "enabled", "disabled": "disabled"}
_LISTED_GPU = re.compile(r"GPU \d+: .*\(UUID: (GPU-[\w-]+)\)")
_LISTED_SLICE = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^\s)]+)\)")
Listed: TypeAlias = dict[tuple[str, int | None], tuple[str, str]]
_LONGEST_ERROR = 400
_SETTINGS = (
    *("vbios_version", "gsp_firmware_version", "inforom_version/img_version", "compute_mode", "accounting_mode"),
    *("gpu_power_readings/current_power_limit", "power_readings/power_limit", "ecc_mode/pending_ecc"),
    *("applications_clocks/graphics_clock", "applications_clocks/mem_clock", "mig_mode/pending_mig"),
)
"""Elements of the document, of old and of new drivers."""


def answer(section: Section, compute: Section) -> tuple[Nvidia, str | None]:
    """Parse `nvidia-smi -q -x` and the list of slices after it, with compute capabilities from a separate query.

    Returns:
        What it says of driver and devices: these, an error message, or both where one card is lost. And why that is incomplete; None
        for a complete answer.
    """
    if section.absent:
        return Nvidia(), section.failure
    before, found, document = section.text.partition("<nvidia_smi_log>")
    error = _words(before)
    if not found:
        return Nvidia(smi_error=error), error or section.failure
    log = _parsed(found + document)
    if log is None:
        unread = section.failure if not section.ok else "nvidia-smi's answer is not whole"
        return Nvidia(smi_error=error), unread
    capabilities, listed = compute_capabilities(compute), _listed_slices(document)
    said = Nvidia(
        driver_version=known(log.findtext("driver_version")),
        cuda_version=version(log.findtext("cuda_version")),
        gpus=tuple(_gpu(element, index, capabilities, listed) for index, element in enumerate(log.iter("gpu"))),
        fabric_state=_fabric_state(log),
        smi_error=error,
    )
    return said, None if section.ok else section.failure


def settings(section: Section) -> dict[str, str]:
    """Return settings and firmware of each card by its index: `0.vbios_version`."""
    begin = section.text.find("<nvidia_smi_log>")
    log = _parsed(section.text[begin:]) if begin >= 0 else None
    return {
        f"{index}.{path.rpartition('/')[2]}": value
        for index, element in enumerate(log.iter("gpu") if log is not None else ())
        for path in _SETTINGS
        if (value := known(element.findtext(path)))
    }


def compute_capabilities(section: Section) -> dict[str, str]:
    """Return compute capabilities such as `9.0` by UUID; empty for drivers before 510, which lack the query."""
    return dict(re.findall(r"^(GPU-[0-9a-fA-F-]+), ([0-9]{1,2}\.[0-9])\s*$", section.text, re.MULTILINE))


def _parsed(document: str) -> ET.Element | None:
    # nvidia-smi declares no entities; reject a document that does.
    if not document or "<!ENTITY" in document:
        return None
    end = document.rfind("</nvidia_smi_log>")
    try:
        return ET.fromstring(document[: end + len("</nvidia_smi_log>")] if end >= 0 else document)  # noqa: S314 - no entities, see above
    except (ET.ParseError, ValueError):
        return None


def _words(text: str) -> str | None:
    """Return the text before the document, without the XML head."""
    lines = map(str.strip, text.split("\n"))
    said = [line for line in lines if line and not line.startswith(("<?xml", "<!DOCTYPE"))]
    return " ".join(said)[:_LONGEST_ERROR] or None


def _listed_slices(text: str) -> Listed:
    """Return profile and UUID of each slice that `nvidia-smi -L` lists, by the UUID of its GPU and its index there."""
    found: Listed = {}
    gpu = ""
    for line in text.splitlines():
        if whole := _LISTED_GPU.match(line):
            gpu = whole[1]
        elif part := _LISTED_SLICE.match(line):
            found[gpu, int(part[2])] = (part[1], part[3])
    return found


def _slices(element: ET.Element, gpu: str | None, listed: Listed) -> tuple[GpuSlice, ...]:
    found = []
    for device in element.iterfind("mig_devices/mig_device"):
        index = integer(device.findtext("index"))
        profile, uuid = listed.get((gpu or "", index), (None, None))
        memory = size(device.findtext("fb_memory_usage/total"))
        if index is not None:
            found.append(GpuSlice(index=index, profile=profile, uuid=uuid, memory_total=memory))
    return tuple(found)


def _gpu(element: ET.Element, index: int, capabilities: dict[str, str], listed: Listed) -> NvidiaGpu:
    uuid = known(element.findtext("uuid"))
    persistence = _MODES.get((element.findtext("persistence_mode") or "").strip().lower())
    return NvidiaGpu(
        index=index,
        name=known(element.findtext("product_name")),
        uuid=uuid,
        serial=known(element.findtext("serial")),
        pci_address=pci_address(element.findtext("pci/pci_bus_id") or element.get("id")),
        memory_total=size(element.findtext("fb_memory_usage/total")),
        compute_capability=capabilities.get(uuid or ""),
        mig_mode=_MODES.get((element.findtext("mig_mode/current_mig") or "").strip().lower()),
        mig_devices=len(element.findall("mig_devices/mig_device")),
        mig_memory=size(element.findtext("mig_devices/mig_device/fb_memory_usage/total")),
        slices=_slices(element, uuid, listed),
        ecc_mode=_MODES.get((element.findtext("ecc_mode/current_ecc") or "").strip().lower()),
        persistence=None if persistence is None else persistence == "enabled",
        # Renamed between versions of the document.
        driver_model=known(element.findtext("driver_model/current_dm")),
        virtualization=known(element.findtext("gpu_virtualization_mode/virtualization_mode")),
    )


def _fabric_state(log: ET.Element) -> str | None:
    """Return `Completed (Success)` when every card reports it; else all different states, separated by commas."""
    seen: dict[str, None] = {}
    for fabric in log.iterfind("gpu/fabric"):
        state, status = known(fabric.findtext("state")), known(fabric.findtext("status"))
        if state:
            seen[f"{state} ({status})" if status else state] = None
    return ", ".join(seen) or None


def module_flavour(section: Section) -> Literal["open", "proprietary"] | None:
    """Return the flavour by the loaded module's line in /proc/driver/nvidia/version."""
    line = section.value("nvidia_proc") or ""
    if "Open Kernel Module" in line:
        return "open"
    return "proprietary" if "Kernel Module" in line else None


def nvidia(output: Output, bus: Bus, unknown: dict[str, str]) -> Nvidia | None:
    """Return the NVIDIA facts; None for a host without NVIDIA devices."""
    modules, tool, manager = output["modules"], output["nvidia_smi"], output["fabric_manager"]
    said, unread = answer(tool, output["nvidia_compute"])
    module = known(modules.value("nvidia_version"))
    if not (bus.of(NVIDIA) or module or said.gpus or said.smi_error or (bus.nvswitches or 0) > 0):
        if tool.status is None or not (tool.ok or tool.absent):
            unknown["nvidia"] = tool.failure
        return None
    if unread:
        unknown["nvidia.gpus"] = unread
    driver = said.driver_version or module
    if driver is None:
        unknown["nvidia.driver_version"] = said.smi_error or "no NVIDIA kernel module is loaded"
    if any(gpu.compute_capability is None for gpu in said.gpus):
        compute = output["nvidia_compute"]
        unknown["nvidia.gpus.compute_capability"] = compute.text.strip()[:200] or compute.failure
    manager.note_failure(unknown, "nvidia.fabric_manager_version", may_be_absent=True)
    more = {
        "driver_version": driver,
        "mig_layout": known(tool.value("mig_layout")),
        "module_version": module,
        "module_flavour": module_flavour(modules),
        "nvswitches": bus.nvswitches,
        "fabric_manager_version": version(manager.value("version")),
        "fabric_manager_state": known(manager.value("state")),
    }
    return said.model_copy(update=more)
