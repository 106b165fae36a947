"""devices.pcie, peer_paths and xid: what the host gives its GPUs, and what its kernel says of them."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone

from verify.host.card_health import INJECTED, graphics_compute, skip_without_cards
from verify.host.views import amd_smi, kernel_log, nvml, pci, torch_view
from verify.host.views.kernel_log import Line
from verify.host.views.pci import Link, PeerPath, link
from verify.host.xid import Event, events, explained, meaning_of
from verify.records import CheckContext, CheckResult, Figure, Observation, Status, combine, first_few
from verify.runner.last_run import read_last_run, started_at

BUSY_S = 0.2
COPY_BYTES = 64 << 20
SEAT = "reseat the GPU and its riser, and check the slot's settings in the firmware (bifurcation, link speed); lspci -vv shows both ends"


def pcie(context: CheckContext) -> CheckResult:
    if "sick-gpu" in context.faults:
        return evaluate_pcie(INJECTED, Link(32.0, 32.0, 8, 16))
    if context.device in (None, "cpu"):
        return CheckResult("skip", "a CPU has no PCIe link")
    address = torch_view.address(str(context.device))
    if address is None:
        return CheckResult("skip", "this torch does not report the PCI addresses of its GPUs")
    return evaluate_pcie(address, _under_load(address, str(context.device)))


def _under_load(address: str, device: str) -> Link:
    """Return the link during copies. An idle link slows down to save power, which is no fault."""
    torch = torch_view.load()
    there = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    pinned = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    until = time.monotonic() + BUSY_S
    while time.monotonic() < until:
        there.copy_(pinned, non_blocking=True)
        torch.cuda.synchronize(device)
    for _ in range(16):
        there.copy_(pinned, non_blocking=True)
    seen = link(address)
    torch.cuda.synchronize(device)
    return seen


def evaluate_pcie(address: str, seen: Link) -> CheckResult:
    """Compare the link under load with the maximum of card and slot."""
    figures = (
        Figure("lanes", seen.width, "count", floor=seen.width_at_most, source="maximum of GPU and slot"),
        Figure("speed", seen.speed, "GT/s", floor=seen.speed_at_most, source="maximum of GPU and slot"),
    )
    if seen.width is None or seen.speed is None:
        text = f"the kernel does not report the link of {address} (a virtual machine)"
        return CheckResult("skip", text, figures, asdict(seen))
    observations = []
    if seen.width_at_most and seen.width < seen.width_at_most:
        observations.append(Observation("warn", f"{address} has {seen.width} of {seen.width_at_most} lanes", SEAT))
    if seen.speed_at_most and seen.speed < seen.speed_at_most:
        text = f"{address} runs at {seen.speed:g} of {seen.speed_at_most:g} GT/s under load"
        observations.append(Observation("warn", text, SEAT))
    healthy = f"{address} has {seen.width} lanes of {seen.speed:g} GT/s under load, the maximum of GPU and slot"
    return combine(observations, healthy, figures, asdict(seen))


TRANSLATING = ("DMA", "DMA-FQ")
REMEDY = (
    "boot with iommu=pt (intel_iommu=on iommu=pt on Intel), and switch ACS off in the firmware, or on each bridge: setpci -s BRIDGE ECAP_ACS+6.w=0000"
    " (NCCL user guide, troubleshooting)"
)


def peer_paths(context: CheckContext) -> CheckResult:
    if "sick-gpu" in context.faults:
        return evaluate_peer_paths([PeerPath(INJECTED, "DMA-FQ", ("0000:fe:00.0",))] * 2, joined=False)
    vendor = "nvidia" if pci.gpus("nvidia", integrated=False) else "amd"
    cards = pci.gpus(vendor, integrated=False)
    if len(cards) < 2:
        return CheckResult("skip", "there are fewer than two GPUs")
    if pci.virtual():
        return CheckResult("skip", "a virtual machine: the host below decides")
    return evaluate_peer_paths([pci.peer_path(card.pci or "") for card in cards], joined=_joined(vendor, len(cards)))


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


def evaluate_peer_paths(paths: Sequence[PeerPath], *, joined: bool) -> CheckResult:
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


NEW: Mapping[str, Status] = {"card": "fail", "process": "warn", "note": "ok"}
KNOWN: Mapping[str, Status] = {"card": "warn", "process": "ok", "note": "ok"}
"""Status of a new event by kind. Events of earlier runs do not fail the check, so a repaired card becomes green again."""


def xid(context: CheckContext) -> CheckResult:
    injected = Line(context.started, f"NVRM: Xid (PCI:{INJECTED[:-2]}): 79, GPU has fallen off the bus.")
    if "sick-gpu" in context.faults:
        return evaluate_xid(events([injected]), known_until=0.0)
    if (skipped := skip_without_cards(context)) and skip_without_cards(context, "amd"):
        return skipped
    if not (found := kernel_log.lines()):
        remedy = "run as root, or as a member of the groups adm and systemd-journal"
        return CheckResult("skip", "the journal has no line of the kernel for this user", remedy=remedy)
    seen = events(found, without=() if graphics_compute(context) else pci.graphics())
    last = read_last_run(context.prefix)  # it reported what came before its end, where this check is
    last = last.get("last_round", last)  # between the rounds of a burn-in there may be days
    return evaluate_xid(seen, known_until=started_at(last) + last.get("seconds", 0.0))


def evaluate_xid(found: Sequence[Event], *, known_until: float) -> CheckResult:
    """Evaluate events. Those before `known_until` were reported by an earlier run: they are shown, but do not fail this one."""
    found = sorted(found)
    new = [event for event in found if event.at > known_until]
    figures = (Figure("events since boot", len(found), "count"), Figure("new events", len(new), "count"))
    observations: list[Observation] = []
    for is_new, chosen in ((True, new), (False, found[: len(found) - len(new)])):
        group: dict[tuple[str, str, int], list[Event]] = defaultdict(list)
        for event in chosen:
            group[event.what, event.pci, event.number].append(event)
        for alike in group.values():
            last, times = alike[-1], f", {len(alike)} times" if len(alike) > 1 else ""
            _, kind, means, remedy = meaning_of(last)
            when = datetime.fromtimestamp(last.at, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
            age = "new" if is_new else "known before this run"
            text = f"{last.label} on {last.pci}: {means} ({age}, last {when}{times})"
            observations.append(Observation((NEW if is_new else KNOWN)[kind], text, remedy))
    evidence = {
        "source": " ".join(kernel_log.JOURNAL),
        "known until": known_until or None,
        "lines": [event.text for event in found[-50:]],
    }
    evidence["meanings"] = sorted({explained(event.text) or "" for event in found[-50:]})
    return combine(observations, "the kernel log has no fault of a GPU since boot", figures, evidence)
