"""Groups of hosts with identical results, their checks combined, and one line for each family of checks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from provision.core.grouping import gather
from provision.core.models.records import CheckRecord, Figure, HostSummary
from provision.core.tables import rows_of
from provision.report.endpoint import names_of
from provision.report.layout import fold_names, number, span

MANY_ENDPOINTS = 8
"""Of more endpoints, those that differ in the host's address alone are one."""
_ADDRESS = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")
_REACHED = re.compile(r"HOST \([^()]*\)")
"""A host with the address and port at which it was to be reached."""
SEVERITY = {"error": 0, "fail": 1, "warn": 2, "ok": 3, "skip": 4}


@dataclass(frozen=True)
class Group:
    """Hosts with the same result on the same devices with the same Stack."""

    hosts: tuple[HostSummary, ...]
    run: tuple[str, ...]
    """Names of all hosts of the run, in inventory order."""

    @property
    def first(self) -> HostSummary:
        return self.hosts[0]

    @cached_property
    def names(self) -> str:
        return named([host.name for host in self.hosts], self.run)

    @cached_property
    def checks(self) -> list[GroupedCheck]:
        """The checks of all hosts, by id and status."""
        return group_records((check.host or host.name, check) for host in self.hosts for check in host.checks)


def group_hosts(hosts: tuple[HostSummary, ...]) -> list[Group]:
    """Group hosts with identical results; groups are in the order of their first host."""
    names = tuple(host.name for host in hosts)
    return [Group(tuple(members), names) for members in gather((_likeness(host), host) for host in hosts).values()]


def named(names: Sequence[str], run: Sequence[str]) -> str:
    """Return a short form of host names: the names themselves, or `all but ...`, whichever is shorter."""
    direct = fold_names(names)
    chosen = set(names)
    others = [name for name in run if name not in chosen]
    but = f"all but {fold_names(others)}"
    return but if others and len(but) < len(direct) else direct


def _likeness(host: HostSummary) -> Any:
    """Return the grouping key: how phases and checks ended, with texts only where something is wrong.

    Texts of successful phases contain numbers of the single host (`12 tasks`, `at 08:15:04`) and do not separate hosts.
    """
    return (
        host.state,
        host.changed,
        host.devices,
        host.stack.model_dump_json() if host.stack else None,
        tuple(
            (phase, result.status, *_words(host, result.status, result.text, result.hint))
            for phase, result in host.phases.items()
        ),
        tuple(sorted({(check.id, check.status, *_words(host, check.status, check.reason)) for check in host.checks})),
        tuple((finding.cause, finding.fix[:1]) for finding in host.findings[:1]),
        host.attention.used,
        host.attention.generation,
        tuple(_unnamed(text, host.name) for text in (*host.deviations, *host.warnings)),
        host.endpoint is not None,
    )


def _words(host: HostSummary, status: str, text: str | None, hint: str | None = None) -> tuple[str, ...]:
    """Return what separates hosts.

    A hint names the address of each host. The reason why a host was not reached names how it is reached, and its hint is a command for it.
    """
    if status in ("ok", "skip", "skipped"):
        return ()
    said, advised = (_unnamed(each, host.name) or "" for each in (text, hint))
    if status == "unreachable":
        return _ADDRESS.sub("ADDRESS", _REACHED.sub("HOST", said)), kind_of_hint(advised)
    return said, _ADDRESS.sub("ADDRESS", advised)


def kind_of_hint(hint: str) -> str:
    """Return what hints of hosts have in common that were not reached for one reason: the words before the command, no address."""
    return _ADDRESS.sub("ADDRESS", hint.partition(": ")[0])


def named_endpoint(endpoint: str, hosts: Sequence[HostSummary]) -> str:
    """Return an endpoint with the models of its hosts."""
    named = (names_of(host.model, host.serve.adapters if host.serve else ()) for host in hosts if host.model)
    models = [*dict.fromkeys(named)]
    return f"{endpoint}, model{'s' if len(models) > 1 else ''} {', '.join(models)}" if models else endpoint


def group_endpoints(hosts: Sequence[HostSummary]) -> list[tuple[str, list[HostSummary]]]:
    """Return each endpoint with its hosts; of many, `http://ADDRESS:8000/v1` stands for all that differ in the address alone."""
    exact = gather((host.endpoint, host) for host in hosts if host.endpoint)
    if len(exact) <= MANY_ENDPOINTS:
        return [*exact.items()]
    alike = gather((re.sub(r"(?<=://)(\[[^]]*\]|[^/:]+)", "ADDRESS", endpoint), endpoint) for endpoint in exact)
    return [
        (pattern if len(members) > 1 else members[0], [host for member in members for host in exact[member]])
        for pattern, members in alike.items()
    ]


def merged_sections(
    run: Sequence[str], groups: Sequence[Group], body: Callable[[Group], Iterable[str]]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each distinct body of a section once, with the names of all hosts that share it."""
    bodies: dict[tuple[str, ...], set[str]] = {}
    for group in groups:
        if lines := tuple(body(group)):
            bodies.setdefault(lines, set()).update(host.name for host in group.hosts)
    for lines, names in bodies.items():
        yield named([name for name in run if name in names], run), lines


def _unnamed(text: str | None, name: str) -> str | None:
    """Replace the host's own name, so that equal failures of two hosts compare equal."""
    return re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)", "HOST", text) if text and name else text


def merge_equal_records(checks: Sequence[CheckRecord]) -> list[CheckRecord]:
    """Merge equal records of several hosts into one with all host names."""
    alike = gather(
        ((check.id, check.device, check.status, _unnamed(check.reason, check.host or ""), check.remedy), check)
        for check in checks
    )
    return [
        group[0].model_copy(update={"host": fold_names([check.host for check in group if check.host]) or None})
        for group in alike.values()
    ]


@dataclass(frozen=True)
class GroupedCheck:
    """One check over several devices and hosts."""

    id: str
    status: str
    count: int
    where: str
    reason: str
    remedy: str | None
    figures: tuple[str, ...]


def group_records(records: Iterable[tuple[str, CheckRecord]]) -> list[GroupedCheck]:
    """Group checks by id and status, worst first, with figures as ranges; each comes with the name of its host."""
    grouped = []
    for (identity, status), found in gather(
        ((check.id, check.status), (host, check)) for host, check in records
    ).items():
        checks = [check for _, check in found]
        where = fold_names(list(dict.fromkeys(check.device for check in checks if check.device)))
        remedy = next((check.remedy for check in checks if check.remedy), None)
        grouped.append(
            GroupedCheck(identity, status, len(checks), where, _reason(found), remedy, tuple(_figures(checks)))
        )
    return sorted(grouped, key=lambda check: SEVERITY[check.status])


def _reason(found: list[tuple[str, CheckRecord]]) -> str:
    """Return the first reason, marked when other hosts have a different one."""
    message = [(host, check) for host, check in found if check.reason]
    if not message:
        return ""
    (host, first), is_same = message[0], len({_unnamed(check.reason, host) for host, check in message}) == 1
    whose = " ".join(filter(None, (host, first.device)))
    return first.reason if is_same else f"{first.reason} ({whose}; others differ)"


def _figures(checks: list[CheckRecord]) -> list[str]:
    """Return `bf16 12.4 to 13.1 TFLOPS (at least 10)` for each measured figure."""
    figures = [figure for check in checks for figure in check.figures]
    values = gather(((figure.name, figure.unit), figure.value) for figure in figures if figure.value is not None)
    bounds: dict[tuple[str, str], str] = {}
    for figure in figures:
        if figure.floor is not None:
            bounds[figure.name, figure.unit] = f" (at least {number(figure.floor)})"
        elif figure.ceiling is not None:
            bounds[figure.name, figure.unit] = f" (at most {number(figure.ceiling)})"
    texts = []
    for (name, unit), measured in values.items():
        texts.append(f"{name} {span(measured)} {unit}".rstrip() + bounds.get((name, unit), ""))
    return texts


TABLE = Path(__file__).with_name("headlines.toml")


@dataclass(frozen=True)
class Headline:
    """One row of headlines.toml."""

    check: str
    figure: str
    text: str
    text_if_zero: str | None = None
    take: Literal["range", "max", "min"] = "range"
    as_percent: bool = False
    """Whether the figure is a share that is shown in percent."""
    has_floor: bool = False
    """Whether a GPU is expected to have a floor for this figure."""


@cache
def headlines() -> tuple[Headline, ...]:
    """Return the rows of headlines.toml in the order in which they are shown."""
    return rows_of(TABLE, "headline", Headline)


def families(checks: Iterable[CheckRecord]) -> Iterator[tuple[str, str, str]]:
    """Yield family, counts (`3 ok, 8 skip`, the worst first) and headline figures, in the order of the checks' first records.

    Without such figures the reason of the first passed check stands for them.
    """
    for family, members in gather((check.id.partition(".")[0], check) for check in checks).items():
        counts = Counter[str](check.status for check in members)
        ended = ", ".join(f"{counts[status]} {status}" for status in SEVERITY if counts[status])
        shown = [*_headlines(members), *_without_floor(members)]
        if not shown and (passed := group_records((one.host or "", one) for one in members if one.status == "ok")):
            shown = [passed[0].reason] if passed[0].reason else [*passed[0].figures]
        yield family, ended, "; ".join(shown)


def _takes(rule: Headline, check: CheckRecord, figure: Figure) -> bool:
    return bool(re.fullmatch(rule.check, check.id) and re.fullmatch(rule.figure, figure.name))


def _headlines(checks: Iterable[CheckRecord]) -> Iterator[str]:
    measured = [(check, figure) for check in checks if check.status != "skip" for figure in check.figures]
    for rule in headlines():
        values = [one.value for check, one in measured if one.value is not None and _takes(rule, check, one)]
        if not values:
            continue
        none = rule.text_if_zero if not any(values) else None
        scaled = [float(int(value * 100)) for value in values] if rule.as_percent else values
        taken = span(scaled) if rule.take == "range" else number(max(scaled) if rule.take == "max" else min(scaled))
        yield none or rule.text.format(taken)


def _without_floor(checks: Iterable[CheckRecord]) -> Iterator[str]:
    """Name the cards and figures without a known floor: their `ok` proves less than that of other cards."""
    cards: dict[str, dict[str, None]] = {}
    for check in (check for check in checks if check.status == "ok" and isinstance(check.evidence, dict)):
        name = check.evidence.get("name") or next(iter(check.evidence.get("devices") or ()), None)
        for figure in check.figures:
            if (
                name
                and figure.floor is None
                and any(rule.has_floor and _takes(rule, check, figure) for rule in headlines())
            ):
                cards.setdefault(str(name), {})[figure.name] = None
    for name, figures in cards.items():
        yield f"recorded, no floor is known for {name}: {', '.join(figures)}"
