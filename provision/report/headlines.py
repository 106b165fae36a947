"""One line for each family of checks: counts by status and its headline figures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from provision.core.grouping import gather
from provision.core.models.records import CheckRecord, Figure
from provision.core.tables import rows_of
from provision.report.group import SEVERITY, group_records
from provision.report.layout import number, span

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
def rules() -> tuple[Headline, ...]:
    """Return the rows of headlines.toml in the order in which they are shown."""
    return rows_of(TABLE, "headline", Headline)


def families(checks: Iterable[CheckRecord]) -> Iterator[tuple[str, str, str]]:
    """Yield family, counts (`3 ok, 8 skip`, the worst first) and headline figures, in the order of the checks' first records."""
    for family, members in gather((check.id.partition(".")[0], check) for check in checks).items():
        counts = Counter[str](check.status for check in members)
        ended = ", ".join(f"{counts[status]} {status}" for status in SEVERITY if counts[status])
        shown = [*_figures(members), *_without_floor(members)]
        yield family, ended, "; ".join(shown) or _first(members)


def _takes(rule: Headline, check: CheckRecord, figure: Figure) -> bool:
    return bool(re.fullmatch(rule.check, check.id) and re.fullmatch(rule.figure, figure.name))


def _figures(checks: Iterable[CheckRecord]) -> Iterator[str]:
    measured = [(check, figure) for check in checks if check.status != "skip" for figure in check.figures]
    for rule in rules():
        values = [one.value for check, one in measured if one.value is not None and _takes(rule, check, one)]
        if not values:
            continue
        none = rule.text_if_zero if not any(values) else None
        scaled = [float(int(value * 100)) for value in values] if rule.as_percent else values
        yield none or rule.text.format(_taken(scaled, rule.take))


def _without_floor(checks: Iterable[CheckRecord]) -> Iterator[str]:
    """Name the cards and figures without a known floor: their `ok` proves less than that of other cards."""
    cards: dict[str, dict[str, None]] = {}
    for check in (check for check in checks if check.status == "ok" and isinstance(check.evidence, dict)):
        name = check.evidence.get("name") or next(iter(check.evidence.get("devices") or ()), None)
        for figure in check.figures:
            if (
                name
                and figure.floor is None
                and any(rule.has_floor and _takes(rule, check, figure) for rule in rules())
            ):
                cards.setdefault(str(name), {})[figure.name] = None
    for name, figures in cards.items():
        yield f"recorded, no floor is known for {name}: {', '.join(figures)}"


def _taken(values: Sequence[float], take: str) -> str:
    if take == "range":
        return span(values)
    return number(max(values) if take == "max" else min(values))


def _first(checks: Iterable[CheckRecord]) -> str:
    """Return the reason of the first passed check; empty when none passed."""
    passed = group_records((check.host or "", check) for check in checks if check.status == "ok")
    return (passed[0].reason or "; ".join(passed[0].figures)) if passed else ""
