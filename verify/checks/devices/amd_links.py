"""devices.amd_links: the AMD GPUs are joined by xGMI, each with each."""

from __future__ import annotations

from collections.abc import Sequence

from verify.card_health import Observation, check_amd_cards, combine
from verify.records import Check, CheckContext, CheckResult, Figure
from verify.views import amd_smi
from verify.views.amd_smi import GpuLink

XGMI = "XGMI"
SOURCE = "AMD Instinct boards join each card with each other one: rocm.docs.amd.com, MI300X and MI250 architecture"
REMEDY = "the kernel's log names the link (dmesg | grep -i xgmi); reset all cards of the board at once, then reseat it"
TOLD = 4
SICK = (GpuLink(0, 1, XGMI), GpuLink(1, 0, XGMI), GpuLink(0, 2, "PCIE"), GpuLink(2, 0, "PCIE"))


def _run(context: CheckContext) -> CheckResult:
    return check_amd_cards(context, amd_smi.gpu_links, evaluate, SICK)


def evaluate(joints: Sequence[GpuLink]) -> CheckResult:
    """Where some cards of a host are joined by xGMI, all of them shall be. How a pair is joined is what the driver reaches."""
    joined = [joint for joint in joints if joint.kind == XGMI]
    if not joined:
        return CheckResult("skip", "no xGMI between these cards")
    others = [joint for joint in joints if joint.kind != XGMI]
    figures = (Figure("ordered pairs joined by xGMI", len(joined), "count", floor=len(joints), source=SOURCE),)
    evidence = {
        "command": " ".join(amd_smi.TOPOLOGY),
        "joints": {f"{joint.gpu} -> {joint.other}": joint.kind for joint in joints},
    }
    said = []
    if others:
        pairs = ", ".join(f"GPU {joint.gpu} to {joint.other} by {joint.kind}" for joint in others[:TOLD])
        more = f" and {len(others) - TOLD} more" if len(others) > TOLD else ""
        said.append(Observation("warn", f"not joined by xGMI as the other cards are: {pairs}{more}", REMEDY))
    return combine(said, f"{len(joined)} ordered pairs of AMD cards are joined by xGMI", figures, evidence)


CHECK = Check(
    id="devices.amd_links",
    description="Where AMD GPUs of this host are joined by xGMI, each is joined so with each other one.",
    run=_run,
    faults=("sick-gpu",),
)
