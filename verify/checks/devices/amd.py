"""devices.amd_clocks, devices.amd_ecc and devices.amd_links: health of AMD GPUs, as amd-smi reports it."""

from collections.abc import Sequence
from dataclasses import asdict, replace

from verify.host.card_health import amd_check
from verify.host.views import amd_smi
from verify.host.views.amd_smi import BadPages, EccErrors, GpuLink, Metrics
from verify.records import CheckResult, Figure, Observation, Status, combine, first_few
from verify.tables import table

ECC_SOURCE = "rocm.docs.amd.com/projects/amdsmi, amdsmi_get_gpu_total_ecc_count; no uncorrected error is harmless"
RESET = "stop the processes that use the GPU and reset it: amd-smi reset --gpureset --gpu {gpu}; if the errors return, have it replaced"
XGMI = "XGMI"
LINKS_SOURCE = (
    "AMD Instinct boards connect each GPU with every other one: rocm.docs.amd.com, MI300X and MI250 architecture"
)
RESEAT = "the kernel log names the link (dmesg | grep -i xgmi); reset all GPUs of the board at once, then reseat it"
LISTED = 4
SICK_LINKS = (GpuLink(0, 1, XGMI), GpuLink(1, 0, XGMI), GpuLink(0, 2, "PCIE"), GpuLink(2, 0, "PCIE"))


def evaluate_clocks(cards: Sequence[Metrics]) -> CheckResult:
    """Only current reasons are evaluated. Reasons without a row (clocks below a limit that the host set, little work) are evidence."""
    telling = [card for card in cards if card.throttling]
    if not telling:
        return CheckResult("skip", "these GPUs do not report what slows them down")
    rule = table("devices")["amd_limits"]
    evidence = {
        "command": " ".join(amd_smi.METRICS.command),
        "cards": [{"gpu": card.gpu, "active": card.throttling, "memory_c": card.memory_c} for card in cards],
        "source": rule["source"],
    }
    observations = [
        Observation(row["status"], f"GPU {card.gpu} is slowed down: {row['name']}", row.get("remedy"))
        for card in telling
        for row in table("devices")["amd_limit"]
        if card.throttling.get(row["reason"])
    ]
    return combine(observations, f"nothing slows an AMD GPU down ({len(telling)} checked)", (), evidence)


amd_clocks = amd_check(amd_smi.METRICS, evaluate_clocks, Metrics(0, {"prochot": True, "hbm_thermal": False}))


def _evaluate_ecc_and_pages(cards: Sequence[EccErrors]) -> CheckResult:
    try:
        return evaluate_ecc(cards, amd_smi.PAGES.ask() or ())
    except amd_smi.AmdSmiError as error:  # guests of virtual machines have no such command
        outcome = evaluate_ecc(cards)
        return replace(outcome, evidence={"counters": outcome.evidence, "pages": str(error)})


def evaluate_ecc(cards: Sequence[EccErrors], pages: Sequence[BadPages] = ()) -> CheckResult:
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
        Observation(status, f"GPU {gpu}: {number} {text}", RESET.format(gpu=gpu))
        for status, gpu, number, text in found
        if number
    ]
    healthy = f"no uncorrected memory error on any GPU ({len(counting or known)} checked)"
    return combine(observations, healthy, tuple(figures), evidence)


amd_ecc = amd_check(amd_smi.ERRORS, _evaluate_ecc_and_pages, EccErrors(gpu=0, corrected=0, uncorrected=1, deferred=0))


def evaluate_links(joints: Sequence[GpuLink]) -> CheckResult:
    """Require xGMI between all cards if some cards of the host have it. The driver reports how each pair is connected."""
    joined = [link for link in joints if link.kind == XGMI]
    if not joined:
        return CheckResult("skip", "no xGMI between these GPUs")
    others = [link for link in joints if link.kind != XGMI]
    figures = (Figure("ordered pairs connected by xGMI", len(joined), "count", floor=len(joints), source=LINKS_SOURCE),)
    evidence = {
        "command": " ".join(amd_smi.LINKS.command),
        "joints": {f"{link.gpu} -> {link.other}": link.kind for link in joints},
    }
    observations = []
    if others:
        pairs = [f"GPU {link.gpu} to {link.other} by {link.kind}" for link in others]
        text = f"not connected by xGMI like the other GPUs: {first_few(pairs, LISTED, separator=', ')}"
        observations.append(Observation("warn", text, RESEAT))
    return combine(observations, f"{len(joined)} ordered pairs of AMD GPUs are connected by xGMI", figures, evidence)


amd_links = amd_check(amd_smi.LINKS, evaluate_links, *SICK_LINKS)
