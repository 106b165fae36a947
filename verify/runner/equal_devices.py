"""Comparison of equal devices, of one host or of several: each function takes the records of a check by device."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from verify.records import CheckResult, Figure
from verify.tables import table


def compare_hashes(answers: Mapping[str, Mapping[str, Any]]) -> CheckResult | None:
    """Compare the hashes of results; None if there are no two equal devices."""
    groups: dict[str, dict[str, Mapping[str, str]]] = defaultdict(dict)
    for device, answer in answers.items():
        if name := answer["evidence"].get("name"):  # CPUs have no name, and are of many kinds
            groups[name][device] = answer["evidence"]["result_hashes"]
    equal = {name: hashes for name, hashes in groups.items() if len(hashes) > 1}
    if not equal:
        return None
    odd = [
        f"{', '.join(devices)}: {kernel} on {name}"
        for name, hashes in equal.items()
        for kernel in next(iter(hashes.values()))
        if (devices := minority({device: hashes_[kernel] for device, hashes_ in hashes.items()}))
    ]
    source = "equal devices, the same kernels and numbers"
    figures = (Figure("dissenting votes", len(odd), "count", ceiling=0, source=source),)
    if odd:
        text = f"different bits than equal devices: {'; '.join(odd)}"
        return CheckResult("fail", text, figures, dict(equal), "take the device out of service, and run it again")
    count = sum(map(len, equal.values()))
    return CheckResult("ok", f"{count} devices give the same bits as the equal ones", figures)


def minority(hashes: Mapping[str, str]) -> list[str]:
    """Return the devices that differ from the majority; without a majority, all of them."""
    winner, count = Counter(hashes.values()).most_common(1)[0]
    if 2 * count > len(hashes):
        return [device for device, hash_ in hashes.items() if hash_ != winner]
    return list(hashes)


def compare_speeds(answers: Mapping[str, Mapping[str, Any]]) -> CheckResult | None:
    """Compare the speeds in the records of devices; None if there are no two equal devices.

    Figures in units of time are better when smaller, all others when larger.
    """
    allowed = table("speed")["spread"]
    by_name: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for device, answer in answers.items():
        if name := (answer["evidence"] or {}).get("name"):  # CPUs have no name; their speeds are only recorded
            by_name[name][device] = answer
    odd, figures = [], []
    for name, devices in by_name.items():
        for figure in next(iter(devices.values()))["figures"]:
            named = ((device, one) for device, answer in devices.items() for one in answer["figures"])
            known = {device: one["value"] for device, one in named if one["name"] == figure["name"] and one["value"]}
            if len(known) < 2:
                continue
            best = min(known.values()) if figure["unit"] in ("s", "ms") else max(known.values())
            shares = {device: min(value, best) / max(value, best) for device, value in known.items()}
            slowest = min(shares, key=lambda device: shares[device])
            gap = 1 - shares[slowest]
            what, bound = f"{figure['name']}, {name}", allowed["share"]
            figures.append(Figure(what, gap, "behind the best", ceiling=bound, source=allowed["source"]))
            if gap > allowed["share"]:
                odd.append(f"{slowest} is {gap:.0%} behind the best in {figure['name']}")
    if not figures:
        return None
    if odd:
        remedy = "compare clocks, temperature and PCIe link of both"
        return CheckResult("warn", "; ".join(odd), tuple(figures), None, remedy)
    return CheckResult("ok", f"equal devices are within {allowed['share']:.0%} of one another", tuple(figures))
