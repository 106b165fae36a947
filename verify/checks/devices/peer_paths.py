"""devices.peer_paths: IOMMU and ACS on the path between cards."""

from collections.abc import Sequence
from dataclasses import asdict

from verify.host.card_health import INJECTED
from verify.host.views import amd_smi, nvml, pci
from verify.host.views.pci import PeerPath
from verify.records import CheckContext, CheckResult, Observation, combine, first_few

TRANSLATING = ("DMA", "DMA-FQ")
REMEDY = (
    "boot with iommu=pt (intel_iommu=on iommu=pt on Intel), and switch ACS off in the firmware, or on each bridge: setpci -s BRIDGE ECAP_ACS+6.w=0000"
    " (NCCL user guide, troubleshooting)"
)


def run(context: CheckContext) -> CheckResult:
    if "sick-gpu" in context.faults:
        return evaluate([PeerPath(INJECTED, "DMA-FQ", ("0000:fe:00.0",))] * 2, joined=False)
    vendor = "nvidia" if pci.gpus("nvidia") else "amd"
    cards = pci.gpus(vendor)
    if len(cards) < 2:
        return CheckResult("skip", "there are fewer than two GPUs")
    if pci.virtual():
        return CheckResult("skip", "a virtual machine: the host below decides")
    return evaluate([pci.peer_path(card.pci or "") for card in cards], joined=_joined(vendor, len(cards)))


def _joined(vendor: str, count: int) -> bool:
    """Return whether direct links connect all `count` cards, so that they do not use the bus. False without a tool that reports it."""
    try:
        if vendor == "nvidia":
            return joined(nvml.nvlinked(), count)
        return joined([joint.kind == "XGMI" for joint in amd_smi.LINKS.ask() or ()], count)
    except (nvml.NvmlError, amd_smi.AmdSmiError):
        return False


def joined(links: Sequence[bool], count: int) -> bool:
    """Return whether each ordered pair of the `count` cards has a direct link; cards bridged in pairs do not qualify."""
    return len(links) >= count * (count - 1) and all(links)


def evaluate(paths: Sequence[PeerPath], *, joined: bool) -> CheckResult:
    """Evaluate the paths between two or more cards of the host."""
    evidence = [asdict(path) for path in paths]
    translated = [path.pci for path in paths if path.iommu in TRANSLATING]
    bridges = sorted({bridge for path in paths for bridge in path.redirected_by or ()})
    observations = []
    if translated:
        text = f"the IOMMU translates writes between GPUs on {len(translated)} of {len(paths)} GPUs ({paths[0].iommu})"
        observations.append(Observation("warn", text, REMEDY))
    if bridges:
        shown = first_few(bridges, 4, separator=", ")
        observations.append(Observation("warn", f"ACS redirects writes between GPUs to the root: {shown}", REMEDY))
    if joined and observations:
        text = "; ".join(found.text for found in observations)
        return CheckResult("ok", f"direct links connect all GPUs; on the bus {text}", (), evidence)
    if any(path.redirected_by is None for path in paths) and not observations:
        return CheckResult("skip", "only root can read whether ACS is on", (), evidence, "run verify as root")
    return combine(observations, f"neither IOMMU nor ACS redirects writes between {len(paths)} GPUs", (), evidence)
