"""devices.amd_links: the AMD GPUs are joined by xGMI, each with each."""

from __future__ import annotations

from collections.abc import Sequence

from verify.cards import Said, on_amd_cards, told
from verify.records import Check, Context, Figure, Outcome
from verify.views import amd_smi
from verify.views.amd_smi import Joint

XGMI = "XGMI"
SOURCE = "AMD Instinct boards join each card with each other one: rocm.docs.amd.com, MI300X and MI250 architecture"
REMEDY = "the kernel's log names the link (dmesg | grep -i xgmi); reset all cards of the board at once, then reseat it"
TOLD = 4
SICK = (Joint(0, 1, XGMI), Joint(1, 0, XGMI), Joint(0, 2, "PCIE"), Joint(2, 0, "PCIE"))


def _run(context: Context) -> Outcome:
    return on_amd_cards(context, amd_smi.joints, judge, SICK)


def judge(joints: Sequence[Joint]) -> Outcome:
    """Where some cards of a host are joined by xGMI, all of them shall be. How a pair is joined is what the driver reaches."""
    joined = [joint for joint in joints if joint.kind == XGMI]
    if not joined:
        return Outcome("skip", "no xGMI between these cards")
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
        said.append(Said("warn", f"not joined by xGMI as the other cards are: {pairs}{more}", REMEDY))
    return told(said, f"{len(joined)} ordered pairs of AMD cards are joined by xGMI", figures, evidence)


CHECK = Check(
    id="devices.amd_links",
    proves="Where AMD GPUs of this host are joined by xGMI, each is joined so with each other one.",
    run=_run,
    faults=("sick-gpu",),
)
