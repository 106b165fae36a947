"""NVIDIA facts of a host from bus, kernel module, nvidia-smi and fabric manager."""

from __future__ import annotations

from typing import Literal

from provision.core.models.facts import Nvidia
from provision.phases.probe.parsers import nvidia_smi
from provision.phases.probe.parsers.pci import NVIDIA, Bus
from provision.phases.probe.parsers.values import known, version
from provision.phases.probe.sections import Output, Section


def module_flavour(section: Section) -> Literal["open", "proprietary"] | None:
    """Return the flavour by the loaded module's line in /proc/driver/nvidia/version."""
    line = section.value("nvidia_proc") or ""
    if "Open Kernel Module" in line:
        return "open"
    return "proprietary" if "Kernel Module" in line else None


def nvidia(output: Output, bus: Bus, smi: nvidia_smi.Answer, unknown: dict[str, str]) -> Nvidia | None:
    """Return the NVIDIA facts; None for a host without NVIDIA devices."""
    modules, tool, manager = output["modules"], output["nvidia_smi"], output["fabric_manager"]
    module = known(modules.value("nvidia_version"))
    if not (bus.of(NVIDIA) or module or smi.gpus or smi.error or (bus.nvswitches or 0) > 0):
        if tool.status is None or not (tool.ok or tool.absent):
            unknown["nvidia"] = tool.failure
        return None
    if smi.unread:
        unknown["nvidia.gpus"] = smi.unread
    driver = smi.driver_version or module
    if driver is None:
        unknown["nvidia.driver_version"] = smi.error or "no NVIDIA kernel module is loaded"
    if smi.gpus and any(gpu.compute_capability is None for gpu in smi.gpus):
        unknown["nvidia.gpus.compute_capability"] = (
            output["nvidia_compute"].text.strip()[:200] or output["nvidia_compute"].failure
        )
    if not manager.ok and not manager.absent:
        unknown["nvidia.fabric_manager_version"] = manager.failure
    return Nvidia(
        driver_version=driver,
        cuda_version=smi.cuda_version,
        module_version=module,
        module_flavour=module_flavour(modules),
        smi_error=smi.error,
        gpus=smi.gpus,
        nvswitches=bus.nvswitches,
        fabric_manager_version=version(manager.value("version")),
        fabric_manager_state=known(manager.value("state")),
        fabric_state=smi.fabric_state,
    )
