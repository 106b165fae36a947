"""Equal hosts shown once: groups of hosts of which a person would read the same, and their checks put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from provision.models.records import CheckRecord, HostSummary
from provision.report.layout import fold_names, number

SEVERITY = {"error": 0, "fail": 1, "warn": 2, "ok": 3, "skip": 4}


@dataclass(frozen=True)
class Group:
    """Hosts that ended alike on alike devices with the same Stack; the first stands for all."""

    hosts: tuple[HostSummary, ...]

    @property
    def first(self) -> HostSummary:
        return self.hosts[0]

    @property
    def names(self) -> str:
        return fold_names([host.name for host in self.hosts])


def fold(hosts: tuple[HostSummary, ...]) -> list[Group]:
    """Groups in the order of their first host."""
    groups: dict[Any, list[HostSummary]] = {}
    for host in hosts:
        groups.setdefault(_likeness(host), []).append(host)
    return [Group(tuple(members)) for members in groups.values()]


def _likeness(host: HostSummary) -> Any:
    return (
        host.state,
        host.changed,
        host.devices,
        host.stack.model_dump_json() if host.stack else None,
        tuple((result.room, result.status, _unnamed(result.text, host.name), result.hint) for result in host.rooms),
        tuple(sorted({(check.id, check.status, _unnamed(check.reason, host.name)) for check in host.checks})),
        host.attention.used,
        host.attention.generation,
        host.deviations,
        host.warnings,
        _unnamed(host.endpoint, host.name),
    )


def _unnamed(text: str | None, name: str) -> str | None:
    """A sentence without the host's own name: two hosts that failed alike are alike."""
    return text.replace(name, "HOST") if text else text


@dataclass(frozen=True)
class FoldedCheck:
    """One check over several devices and hosts."""

    id: str
    status: str
    count: int
    where: str
    reason: str
    remedy: str | None
    figures: tuple[str, ...]


def fold_checks(hosts: tuple[HostSummary, ...]) -> list[FoldedCheck]:
    """Checks by id and status, the worst first, figures as ranges."""
    groups: dict[tuple[str, str], list[CheckRecord]] = {}
    for host in hosts:
        for check in host.checks:
            groups.setdefault((check.id, check.status), []).append(
                check if check.host else check.model_copy(update={"host": host.name})
            )
    folded = [_fold(identity, status, checks) for (identity, status), checks in groups.items()]
    return sorted(folded, key=lambda check: SEVERITY[check.status])


def _fold(identity: str, status: str, checks: list[CheckRecord]) -> FoldedCheck:
    devices = list(dict.fromkeys(check.device for check in checks if check.device))
    return FoldedCheck(
        id=identity,
        status=status,
        count=len(checks),
        where=fold_names(devices),
        reason=next((check.reason for check in checks if check.reason), ""),
        remedy=next((check.remedy for check in checks if check.remedy), None),
        figures=tuple(_figures(checks)),
    )


def _figures(checks: list[CheckRecord]) -> list[str]:
    """`bf16 12.4 to 13.1 TFLOPS (at least 10)` for each figure that the checks measured."""
    values: dict[tuple[str, str], list[float]] = {}
    bounds: dict[tuple[str, str], str] = {}
    for check in checks:
        for figure in check.figures:
            key = (figure.name, figure.unit)
            if figure.value is not None:
                values.setdefault(key, []).append(figure.value)
            if figure.floor is not None:
                bounds[key] = f" (at least {number(figure.floor)})"
            elif figure.ceiling is not None:
                bounds[key] = f" (at most {number(figure.ceiling)})"
    texts = []
    for (name, unit), measured in values.items():
        low, high = number(min(measured)), number(max(measured))
        span = low if low == high else f"{low} to {high}"
        texts.append(f"{name} {span} {unit}".rstrip() + bounds.get((name, unit), ""))
    return texts
