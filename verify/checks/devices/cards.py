"""devices.clocks, ecc, fabric, modes and nvlink: health of NVIDIA GPUs, as NVML reports it. devices.amd_clocks, amd_ecc and amd_links: of AMD GPUs, as amd-smi reports it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from verify.host.card_health import amd_check, nvidia_check
from verify.host.views import amd_smi
from verify.host.views.amd_smi import BadPages, EccErrors, GpuLink
from verify.host.views.nvml import Fabric, Health
from verify.records import CheckResult, Figure, Observation, Status, combine, first_few
from verify.tables import table

RESET = "stop the processes that use the GPU and reset it: nvidia-smi --gpu-reset -i {pci}; or reboot"
REPLACE = "the GPU has no spare rows left: have it replaced"
START = "start the fabric manager of exactly this driver version: systemctl enable --now nvidia-fabricmanager"
SHOWN = "journalctl -u nvidia-fabricmanager shows the reason"
PROHIBITED = "prohibited"
RESEAT = (
    "the kernel log shows the reason (devices.xid); reset the GPU, then reseat it or its bridge: nvidia-smi nvlink -e"
)
SEVERE = ("recovery", "replay")
"""Counters that DCGM's NVLink health watch evaluates from the first error on."""


def evaluate_clocks(cards: Sequence[Health]) -> CheckResult:
    """Evaluate the current reasons: heat and power limits persist without load; the speed checks cover the effect of load."""
    if all(card.clock_reasons is None and card.power_limit_w is None for card in cards):
        if all(card.virtual for card in cards):
            return CheckResult("skip", "clocks and power of a vGPU are those of the hypervisor's host")
        return CheckResult("error", "cannot tell: the driver reports neither clock reasons nor power limits")
    named = {card.pci: [row["name"] for row in _reasons(card)] for card in cards}
    figures = tuple(
        Figure(f"power limit: {card.pci}", card.power_limit_w, "W", floor=card.power_default_w, source="its default")
        for card in cards
        if card.power_limit_w is not None
    )
    observations = []
    for card in cards:
        for row in _reasons(card):
            if row["status"] in ("fail", "warn"):
                text = f"{card.pci} is slowed down: {row['name']}"
                observations.append(Observation(row["status"], text, row["remedy"]))
        limit, usual = card.power_limit_w, card.power_default_w
        if limit is not None and usual is not None and limit < usual:
            text = f"{card.pci} is limited to {limit:.0f} W, the default is {usual:.0f} W"
            observations.append(Observation("warn", text, f"nvidia-smi -i {card.pci} --power-limit={usual:.0f}"))
    seen = sorted({name for names in named.values() for name in names})
    healthy = f"nothing slows a GPU down ({len(cards)} checked; current clock limits: {', '.join(seen) or 'none'})"
    evidence = {"reasons": named, "source": table("devices")["clock_reasons"]["source"]}
    return combine(observations, healthy, figures, evidence)


def _reasons(card: Health) -> list[dict[str, Any]]:
    return [row for row in table("devices")["clock_reason"] if (card.clock_reasons or 0) & row["bit"]]


clocks = nvidia_check(evaluate_clocks, clock_reasons=0x48)


def evaluate_ecc(cards: Sequence[Health]) -> CheckResult:
    """Evaluate uncorrected errors only: correcting errors is what ECC is for."""
    counted = [card for card in cards if card.uncorrected is not None]
    if not any(card.ecc is not None or card.remapped is not None for card in cards):
        return CheckResult("skip", "these GPUs have no error correction, or do not report it")
    most, source = table("devices")["ecc"]["uncorrected_since_load"], table("devices")["ecc"]["source"]
    since_load = sum(card.uncorrected[0] for card in counted if card.uncorrected)
    ever = sum(card.uncorrected[1] for card in counted if card.uncorrected)
    rows = [sum(card.remapped[kind] for card in cards if card.remapped) for kind in (0, 1)]
    figures = (
        Figure("uncorrected errors since the driver was loaded", since_load, "count", ceiling=most, source=source),
        Figure("uncorrected errors ever", ever, "count"),
        Figure("rows remapped after corrected errors", rows[0], "count"),
        Figure("rows remapped after uncorrected errors", rows[1], "count"),
    )
    observations = [entry for card in cards for entry in _ecc_of(card, most)]
    healthy = f"no uncorrected memory error since the driver was loaded, {ever} before ({len(counted)} checked)"
    return combine(observations, healthy, figures, [asdict(card) for card in cards])


def _ecc_of(card: Health, limit: int) -> Iterator[Observation]:
    reset = RESET.format(pci=card.pci)
    if card.remap_failed:
        yield Observation("fail", f"{card.pci}: a memory row could not be remapped", REPLACE)
    if card.uncorrected and card.uncorrected[0] > limit:
        text = f"{card.pci}: {card.uncorrected[0]} uncorrected errors since the driver was loaded"
        yield Observation("fail", text, reset)
    if card.remap_pending:
        yield Observation("warn", f"{card.pci}: a memory row is pending remapping", reset)
    if card.retirement_pending:
        yield Observation("warn", f"{card.pci}: a memory page is pending retirement", reset)
    if card.ecc and card.ecc[0] != card.ecc[1]:
        text = f"{card.pci}: ECC will be {'on' if card.ecc[1] else 'off'} after the next reset"
        yield Observation("warn", text, reset)
    elif card.ecc == (False, False) and card.ecc_by_default:
        remedy = f"turn it on: nvidia-smi -i {card.pci} -e 1, then reboot"
        yield Observation("warn", f"{card.pci}: ECC is off, the default is on", remedy)


ecc = nvidia_check(evaluate_ecc, ecc=(True, True), uncorrected=(1, 1))


def evaluate_fabric(cards: Sequence[Health]) -> CheckResult:
    """Require registration of all cards. A single card needs no fabric: virtual machines with one card never complete it."""
    states = table("devices")["fabric_state"]
    members = [card for card in cards if card.fabric and card.fabric.state]
    if not members:
        return CheckResult("skip", "no GPU belongs to an NVSwitch fabric, or the driver is older than 535")
    complete = [card for card in members if card.fabric and card.fabric.state == states["completed"]]
    figures = (Figure("GPUs in the fabric", len(complete), "count", floor=None if len(cards) == 1 else len(members)),)
    observations = [entry for card in members for entry in _fabric_of(card, states, exclusive=len(cards) == 1)]
    evidence = {card.pci: vars(card.fabric) for card in members if card.fabric}
    healthy = f"{len(complete)} of {len(members)} GPUs are registered with the fabric"
    return combine(observations, healthy, figures, evidence)


def _fabric_of(card: Health, states: dict[str, Any], *, exclusive: bool) -> Iterator[Observation]:
    fabric = card.fabric
    if fabric is None:
        return
    if fabric.state != states["completed"]:
        name = states["names"][fabric.state] if fabric.state < len(states["names"]) else str(fabric.state)
        yield Observation("ok" if exclusive else "fail", f"{card.pci}: its fabric is {name}", START)
        return
    if fabric.status:
        text = f"{card.pci}: registration with the fabric failed (NVML status {fabric.status})"
        yield Observation("fail", text, SHOWN)
    for row in table("devices")["fabric_health"]:
        if fabric.health >> row["shift"] & row["mask"] in row["bad"]:
            yield Observation(row["status"], f"{card.pci}: {row['text']}", SHOWN)


fabric = nvidia_check(evaluate_fabric, fabric=Fabric(state=3, status=999, health=0))


def evaluate_modes(cards: Sequence[Health]) -> CheckResult:
    """Report persistence mode without evaluating it: without it, first uses take seconds longer and volatile error counts are lost."""
    split = sum(1 for card in cards if card.is_split)
    figures = (Figure("GPUs split by MIG", split, "count"),)
    observations, states = [], dict[str, dict[str, Any]]()
    for card in cards:
        mode = _mode(card)
        states[card.pci] = {"compute mode": mode, "MIG": card.mig, "persistence": card.persistence}
        remedy = f"nvidia-smi -i {card.pci} --compute-mode=DEFAULT"
        if mode not in (None, "default"):
            what = "no process may compute on it" if mode == PROHIBITED else "one process at a time"
            # Checks run in several processes at once. A single exclusive GPU may be one that does not serve.
            is_bad = mode == PROHIBITED or all(_mode(other) == mode for other in cards)
            text = f"{card.pci} is in compute mode {mode}: {what}"
            observations.append(Observation("fail" if is_bad else "warn", text, remedy))
        if card.mig and card.mig[0] != card.mig[1]:
            text = f"{card.pci}: MIG will be {'on' if card.mig[1] else 'off'} after the next reset"
            observations.append(Observation("warn", text, f"nvidia-smi --gpu-reset -i {card.pci}, or reboot"))
    lazy = [card.pci for card in cards if card.persistence is False]
    if lazy:
        text = f"persistence mode is off on {', '.join(lazy)}: each first use waits for the driver"
        observations.append(Observation("ok", text))
    return combine(observations, f"every GPU accepts any process ({len(cards)} checked)", figures, states)


def _mode(card: Health) -> str | None:
    names: list[str] = table("devices")["compute_mode"]["names"]
    return names[card.compute_mode] if card.compute_mode is not None and card.compute_mode < len(names) else None


modes = nvidia_check(evaluate_modes, compute_mode=2)


def evaluate_nvlink(cards: Sequence[Health]) -> CheckResult:
    """Compare with the card's type if all its links are wired, and with equal cards of the host.

    A single card needs no links: in a virtual machine with one card of an NVSwitch system they are off. A split card uses none, and an A100
    turns them off (NVIDIA's guide of the fabric manager, "MIG mode").
    """
    cards = [card for card in cards if not card.is_split]
    linked = [card for card in cards if any(card.links)]
    if not linked and (len(cards) < 2 or not any(_wired(card) for card in cards)):
        return CheckResult("skip", f"no NVLink between {'these' if len(cards) > 1 else 'whole'} GPUs")
    up = {card.pci: sum(card.links) for card in cards}
    figures = tuple(Figure(f"links up: {card.pci}", up[card.pci], "count", floor=_wired(card)) for card in cards)
    evidence = {
        card.pci: {"name": card.name, "links": list(card.links), "errors": dict(card.link_errors)} for card in cards
    }
    observations = []
    for card in cards:
        wired, most = _wired(card), max(up[other.pci] for other in cards if other.name == card.name)
        if wired and up[card.pci] < wired:
            text = f"{card.pci}: {up[card.pci]} of {wired} NVLinks are up{_down(card)}"
            observations.append(Observation("fail", text, RESEAT))
        elif not wired and up[card.pci] < most:
            text = f"{card.pci}: {up[card.pci]} NVLinks are up, and {most} on an equal GPU{_down(card)}"
            observations.append(Observation("warn", text, RESEAT))
        # Errors that only the checksum found occur on every long link; they are evidence.
        told_of = [f"{card.link_errors[kind]} {kind}" for kind in SEVERE if card.link_errors.get(kind)]
        if told_of:
            text = f"{card.pci}: NVLink errors since the driver was loaded: {', '.join(told_of)}"
            observations.append(Observation("warn", text, RESEAT))
    return combine(observations, f"{sum(up.values())} NVLinks of {len(linked)} GPUs are up", figures, evidence)


def _wired(card: Health) -> int | None:
    """Return the number of links on a board of this type; None if it depends on bridges."""
    rows = table("devices")["nvlink"]
    return next((row["links"] for row in rows if re.search(row["match"], card.name)), None)


def _down(card: Health) -> str:
    down = [str(number) for number, is_up in enumerate(card.links) if not is_up]
    return f" (down: {', '.join(down)})" if down and any(card.links) else ""


nvlink = nvidia_check(evaluate_nvlink, name="NVIDIA H200", links=(True,) * 17 + (False,))


ECC_SOURCE = "rocm.docs.amd.com/projects/amdsmi, amdsmi_get_gpu_total_ecc_count; no uncorrected error is harmless"
RESET_AMD = "stop the processes that use the GPU and reset it: amd-smi reset --gpureset --gpu {gpu}; if the errors return, have it replaced"
XGMI = "XGMI"
LINKS_SOURCE = "AMD Instinct boards connect each GPU with every other one, bridges each within a group: rocm.docs.amd.com, MI300X, MI250 and MI100 architecture"
RESEAT_AMD = "the kernel log names the link (dmesg | grep -i xgmi); reset all GPUs of the board at once, then reseat it"
LISTED = 4
SICK_LINKS = (GpuLink(0, 1, XGMI), GpuLink(1, 0, XGMI), GpuLink(0, 2, "PCIE"), GpuLink(2, 0, "PCIE"))


def evaluate_amd_clocks(cards: Sequence[Health]) -> CheckResult:
    """Only current reasons are evaluated. Reasons without a row (clocks below a limit that the host set, little work) are evidence."""
    telling = [card for card in cards if card.throttling]
    if not telling:
        return CheckResult("skip", "these GPUs do not report what slows them down")
    rule = table("devices")["amd_limits"]
    evidence = {
        "command": " ".join(amd_smi.METRICS.command),
        "cards": [{"gpu": card.pci, "active": card.throttling, "memory_c": card.memory_c} for card in cards],
        "source": rule["source"],
    }
    observations = [
        Observation(row["status"], f"GPU {card.pci} is slowed down: {row['name']}", row.get("remedy"))
        for card in telling
        for row in table("devices")["amd_limit"]
        if (card.throttling or {}).get(row["reason"])
    ]
    return combine(observations, f"nothing slows an AMD GPU down ({len(telling)} checked)", (), evidence)


SICK = Health("0", "", throttling={"prochot": True, "hbm_thermal": False})
amd_clocks = amd_check(amd_smi.METRICS, evaluate_amd_clocks, SICK)


def _evaluate_ecc_and_pages(cards: Sequence[EccErrors]) -> CheckResult:
    try:
        return evaluate_amd_ecc(cards, amd_smi.PAGES.ask() or ())
    except amd_smi.AmdSmiError as error:  # guests of virtual machines have no such command
        outcome = evaluate_amd_ecc(cards)
        return replace(outcome, evidence={"counters": outcome.evidence, "pages": str(error)})


def evaluate_amd_ecc(cards: Sequence[EccErrors], pages: Sequence[BadPages] = ()) -> CheckResult:
    """Evaluate uncorrected errors and pages that are bad, but still in use: correcting errors is what ECC is for, retiring pages the driver's work."""
    counting = [card for card in cards if card.uncorrected is not None]
    known = [card for card in pages if card.retired is not None]
    if not counting and not known:
        return CheckResult("skip", "these GPUs do not count memory errors")
    total = sum(card.uncorrected or 0 for card in counting)
    figures = [Figure("uncorrected errors since the driver was loaded", total, "count", ceiling=0, source=ECC_SOURCE)]
    if known:
        figures.append(Figure("pages retired ever", sum(card.retired or 0 for card in known), "count"))
    evidence = {"cards": [asdict(card) for card in cards], "pages": [asdict(card) for card in pages]}
    found: list[tuple[Status, int, int | None, str]] = []
    for card in counting:
        where = ", ".join(f"{name} {count}" for name, count in sorted(card.blocks.items()))
        text = f"uncorrected memory errors ({where})" if where else "uncorrected memory errors"
        found.append(("fail", card.gpu, card.uncorrected, text))
        found.append(("warn", card.gpu, card.deferred, "deferred memory errors"))
    for page in known:
        found.append(("warn", page.gpu, page.pending, "memory pages are pending retirement"))
        found.append(("warn", page.gpu, page.unreservable, "bad memory pages could not be retired"))
    observations = [
        Observation(status, f"GPU {gpu}: {number} {text}", RESET_AMD.format(gpu=gpu))
        for status, gpu, number, text in found
        if number
    ]
    healthy = f"no uncorrected memory error on any GPU ({len(counting or known)} checked)"
    return combine(observations, healthy, tuple(figures), evidence)


amd_ecc = amd_check(amd_smi.ERRORS, _evaluate_ecc_and_pages, EccErrors(gpu=0, corrected=0, uncorrected=1, deferred=0))


def evaluate_amd_links(joints: Sequence[GpuLink]) -> CheckResult:
    """Require xGMI between all cards of a group, and groups of one size, if some cards of the host have it.

    The boards of a server are one group; bridges make groups of two or four cards. The driver reports how each pair is connected.
    """
    joined = [link for link in joints if link.kind == XGMI]
    if not joined:
        return CheckResult("skip", "no xGMI between these GPUs")
    group_of = _groups(joints)
    groups = sorted({tuple(sorted(group)) for group in group_of.values()})
    others = [link for link in joints if link.kind != XGMI and link.other in group_of[link.gpu]]
    floor = len(group_of) * (max(map(len, groups)) - 1)
    figures = (Figure("ordered pairs connected by xGMI", len(joined), "count", floor=floor, source=LINKS_SOURCE),)
    evidence = {
        "command": " ".join(amd_smi.LINKS.command),
        "joints": {f"{link.gpu} -> {link.other}": link.kind for link in joints},
    }
    observations = []
    if others:
        pairs = [f"GPU {link.gpu} to {link.other} by {link.kind}" for link in others]
        text = f"not connected by xGMI like the other GPUs: {first_few(pairs, LISTED, separator=', ')}"
        observations.append(Observation("warn", text, RESEAT_AMD))
    if len(set(map(len, groups))) > 1:
        shown = [" ".join(map(str, group)) for group in groups]
        text = f"xGMI connects the GPUs in groups of different sizes: {first_few(shown, LISTED, separator=', ')}"
        observations.append(Observation("warn", text, RESEAT_AMD))
    return combine(observations, f"{len(joined)} ordered pairs of AMD GPUs are connected by xGMI", figures, evidence)


def _groups(joints: Sequence[GpuLink]) -> dict[int, set[int]]:
    """Return by GPU the group of those that xGMI connects with it, directly or through others, itself among them."""
    groups = {link.gpu: {link.gpu} for link in joints}
    for link in joints:
        if link.kind == XGMI:
            together = groups[link.gpu] | groups[link.other]
            groups.update(dict.fromkeys(together, together))
    return groups


amd_links = amd_check(amd_smi.LINKS, evaluate_amd_links, *SICK_LINKS)
