"""Registry of checks: the rows of data/checks.toml, and a check for each attention provider; when they apply, and how equal devices are compared.

The check `FAMILY.NAME` is the function `run` of `verify/checks/FAMILY/NAME.py`, or FILE:FUNCTION of that folder, as `run` of its row
says. Most of these modules import torch, which may be missing or broken: a module is imported when its check runs, in its process.
"""

import importlib.util
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from verify.records import LEVELS, Check, CheckContext, CheckResult, Figure, Level
from verify.runner.execution import OVERHEAD_S
from verify.serving import service_plan
from verify.serving.service import Service
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
        if (devices := minority({device: own[kernel] for device, own in hashes.items() if kernel in own}))
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
    """Compare the speeds in the records of devices; None if there are no two equal devices. Ratios differ by more than speeds do."""
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
            if len(known) < 2 or figure["unit"] not in allowed["units"]:
                continue
            slowest = min(known, key=lambda device: known[device])
            gap = 1 - known[slowest] / max(known.values())
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


def vllm(context: CheckContext) -> CheckResult | None:
    """Require vLLM: planned in the Stack, or installed where there is no Stack."""
    if "vllm" in context.stack and context.stack["vllm"] is None:
        return CheckResult("skip", "the plan has no vLLM")
    if context.stack or importlib.util.find_spec("vllm"):
        return None  # a planned vLLM that is missing is a failure of the check
    return CheckResult("skip", "vllm is not installed in this environment, and no plan needs it")


def lock(context: CheckContext) -> CheckResult | None:
    """Require a lock."""
    if context.lock is not None:
        return None
    return CheckResult("skip", "there is no lock to compare with", remedy="pass one: --lock FILE")


def service(context: CheckContext) -> CheckResult | None:
    """Require a live service whose plan this user may read. Injected faults need none."""
    if context.faults:
        return None
    if context.expect.get("serve_follows"):
        return CheckResult("skip", "the service is started after these checks; ./firstlight verify then asks it")
    if context.service is None:
        return CheckResult("skip", "no service runs from this environment", remedy="start it: ./firstlight serve")
    return _readable_plan(context.service)


def _readable_plan(service: Service) -> CheckResult | None:
    if (service.prefix / "current").resolve() != Path(sys.prefix).resolve():
        return CheckResult("skip", "the service runs from another environment")
    try:
        service_plan.read(service)
    except PermissionError as error:
        return CheckResult("skip", f"only the owner may read {error.filename}", remedy="run the checks as root")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return CheckResult("error", f"cannot read the plan of the service: {error}", remedy="./firstlight provision")
    return None


def _planned_attention(row: Mapping[str, Any], context: CheckContext) -> CheckResult | None:
    """Require that the Stack uses this attention, a row of data/attention.toml; on `full` and without a plan, all are checked."""
    plan: Mapping[str, Any] | None = context.stack.get("attention")
    if not plan or context.faults or context.includes("full") or is_planned(row, context):
        return None
    generation = f" of generation {plan['generation']}" if plan.get("generation") else ""
    return CheckResult("skip", f"the plan serves with {plan['backend']}{generation}; other attention: --level full")


def is_planned(row: Mapping[str, Any], context: CheckContext) -> bool:
    """Return whether the Stack serves with this attention, or has its package."""
    plan: Mapping[str, Any] = context.stack.get("attention") or {}
    package = (context.stack.get("flash_attn") or {}).get("package") or {}
    serves = plan.get("backend") in row.get("serves", ()) and plan.get("generation") in (None, row.get("generation"))
    return serves or str(package.get("version")).startswith(row.get("package", "none"))


AGGREGATES = {"compare_hashes": compare_hashes, "compare_speeds": compare_speeds}
PRECONDITIONS = {"vllm": vllm, "lock": lock, "service": service}
AT_ONCE = 2
"""Number of checks that run in parallel on the smallest host."""


@cache
def all_checks() -> tuple[Check, ...]:
    """Return every check, ordered by family and id."""
    found = [*_of_attention()]
    for family, name, row in ((family, *item) for family, rows in table("checks").items() for item in rows.items()):
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        values["preconditions"] = tuple(PRECONDITIONS[each] for each in row.get("preconditions", ()))
        values["aggregate"] = AGGREGATES[row["aggregate"]] if "aggregate" in row else None
        values["run"] = partial(_call, f"verify.checks.{family}.{row.get('run', f'{name}:run')}")
        found.append(Check(id=f"{family}.{name}", **values))
    order = [family["name"] for family in table("families")["family"]]
    return tuple(sorted(found, key=lambda check: (order.index(check.family), check.id)))


def _of_attention() -> Iterator[Check]:
    for name, row in table("attention")["provider"].items():
        unplanned = (partial(_planned_attention, row),)
        yield Check(
            id=f"attention.{name}",
            description=f"{row['title']} is as close to a float64 reference as plain torch is, and its own kernel ran.",
            run=partial(_call, "verify.attention.check:run", name),
            level=row["level"],
            requires=("kernels.vector_add",),
            preconditions=unplanned if row["level"] == "standard" else (),
            each_device=True,
            faults=("wrong-result", "wrong-kernel"),
            deadline_s=row.get("deadline_s", 180.0),
        )


def _call(reference: str, *arguments: Any) -> Any:
    """Import `MODULE:FUNCTION`, and call it."""
    return resolve_name(reference)(*arguments)


def select(names: tuple[str, ...]) -> frozenset[str]:
    """Return the ids of the named checks and families. Raises KeyError with the first unknown name."""
    chosen: set[str] = set()
    for name in names:
        matching = {check.id for check in all_checks() if name in (check.id, check.family)}
        if not matching:
            raise KeyError(name)
        chosen |= matching
    return frozenset(chosen)


def run_limit_s(level: Level, devices: int) -> float:
    """Return the seconds after which a run has ended even if every check uses its whole deadline."""
    at_once = alone = longest = 0.0
    for check in all_checks():
        if LEVELS.index(check.level) <= LEVELS.index(level):
            seconds = check.deadline_s * (max(devices, 1) if check.each_device else 1)
            longest = max(longest, check.deadline_s)
            alone += seconds if check.exclusive else 0.0
            at_once += 0.0 if check.exclusive else seconds
    return OVERHEAD_S + at_once / AT_ONCE + longest + alone
