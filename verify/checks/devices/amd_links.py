"""devices.amd_links: xGMI links between AMD GPUs."""

from collections.abc import Sequence

from verify.host.card_health import Observation, amd_check, combine
from verify.host.views import amd_smi
from verify.host.views.amd_smi import GpuLink
from verify.records import CheckResult, Figure, first_few

XGMI = "XGMI"
SOURCE = "AMD Instinct boards connect each GPU with every other one: rocm.docs.amd.com, MI300X and MI250 architecture"
REMEDY = "the kernel log names the link (dmesg | grep -i xgmi); reset all GPUs of the board at once, then reseat it"
LISTED = 4
SICK = (GpuLink(0, 1, XGMI), GpuLink(1, 0, XGMI), GpuLink(0, 2, "PCIE"), GpuLink(2, 0, "PCIE"))


def evaluate(joints: Sequence[GpuLink]) -> CheckResult:
    """Require xGMI between all cards if some cards of the host have it. The driver reports how each pair is connected."""
    joined = [link for link in joints if link.kind == XGMI]
    if not joined:
        return CheckResult("skip", "no xGMI between these GPUs")
    others = [link for link in joints if link.kind != XGMI]
    figures = (Figure("ordered pairs connected by xGMI", len(joined), "count", floor=len(joints), source=SOURCE),)
    evidence = {
        "command": " ".join(amd_smi.LINKS.command),
        "joints": {f"{link.gpu} -> {link.other}": link.kind for link in joints},
    }
    observations = []
    if others:
        pairs = [f"GPU {link.gpu} to {link.other} by {link.kind}" for link in others]
        observations.append(
            Observation(
                "warn", f"not connected by xGMI like the other GPUs: {first_few(pairs, LISTED, separator=', ')}", REMEDY
            )
        )
    return combine(observations, f"{len(joined)} ordered pairs of AMD GPUs are connected by xGMI", figures, evidence)


run = amd_check(amd_smi.LINKS, evaluate, *SICK)
