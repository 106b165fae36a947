"""devices.peer_paths: IOMMU and ACS leave what cards write to one another its short way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from verify.card_health import INJECTED, Observation, combine
from verify.records import Check, CheckContext, CheckResult
from verify.views import amd_smi, nvml, pci, peer_paths
from verify.views.peer_paths import PeerPath

TRANSLATING = ("DMA", "DMA-FQ")
REMEDY = (
    "boot with iommu=pt (intel_iommu=on iommu=pt on Intel), and switch ACS off in the firmware, or on each bridge: setpci -s BRIDGE ECAP_ACS+6.w=0000"
    " (NCCL user guide, troubleshooting)"
)


def _run(context: CheckContext) -> CheckResult:
    if "sick-gpu" in context.faults:
        return evaluate([PeerPath(INJECTED, "DMA-FQ", ("0000:fe:00.0",))] * 2, joined=False)
    vendor = "nvidia" if pci.gpus("nvidia") else "amd"
    cards = pci.gpus(vendor)
    if len(cards) < 2:
        return CheckResult("skip", "there are no two GPUs that could exchange")
    if peer_paths.virtual():
        return CheckResult("skip", "a virtual machine: the machine below decides")
    return evaluate([peer_paths.peer_path(card.pci or "") for card in cards], joined=_joined(vendor, len(cards)))


def _joined(vendor: str, count: int) -> bool:
    """Whether links of their own join all `count` cards: the bus is not their way then. False where no tool answers."""
    try:
        if vendor == "nvidia":
            return joined(nvml.nvlinked(), count)
        return joined([joint.kind == "XGMI" for joint in amd_smi.gpu_links() or ()], count)
    except (nvml.NvmlError, amd_smi.AmdSmiError):
        return False


def joined(links: Sequence[bool], count: int) -> bool:
    """Whether each ordered pair of the `count` cards has links of its own: cards that are bridged two by two are not all joined."""
    return len(links) >= count * (count - 1) and all(links)


def evaluate(paths: Sequence[PeerPath], *, joined: bool) -> CheckResult:
    """Of two cards and more of one host."""
    evidence = [asdict(path) for path in paths]
    translated = [path.pci for path in paths if path.iommu in TRANSLATING]
    bridges = sorted({bridge for path in paths for bridge in path.redirected_by or ()})
    said = []
    if translated:
        text = f"the IOMMU translates what {len(translated)} of {len(paths)} cards write ({paths[0].iommu})"
        said.append(Observation("warn", text, REMEDY))
    if bridges:
        shown = ", ".join(bridges[:4]) + (f" and {len(bridges) - 4} more" if len(bridges) > 4 else "")
        said.append(Observation("warn", f"ACS sends what cards write to one another up to the root: {shown}", REMEDY))
    if joined and said:
        text = "; ".join(found.text for found in said)
        return CheckResult("ok", f"links of their own join all cards; on the bus {text}", (), evidence)
    if any(path.redirected_by is None for path in paths) and not said:
        return CheckResult("skip", "only root may read whether ACS is on", (), evidence, "run verify as root")
    return combine(said, f"neither IOMMU nor ACS stands between {len(paths)} cards", (), evidence)


CHECK = Check(
    id="devices.peer_paths",
    description="On the bus, neither an IOMMU that translates nor ACS on a bridge stands between the cards of this host.",
    run=_run,
    faults=("sick-gpu",),
)
