"""The live table of `status --watch`: what each host serves and how it is doing. Pure, but for the drawing by rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from provision.report.layout import clean, count

TITLES = ("host", "release", "running", "waiting", "req/s", "tokens/s", "TTFT p50, p99", "cache", "GPUs")
SHOWN_DIGITS = 8
"""Digits of a release's digest; `status` shows all."""
LINES_BESIDE = 4
"""Terminal lines that show no host: head, caption, prompt."""


@dataclass(frozen=True)
class Reading:
    """What a host's metrics said at one time."""

    at: float
    """Seconds of a clock that never goes back."""
    values: Mapping[str, float] = field(default_factory=dict)
    """`running`, `waiting`, `cache` (a share), and `tokens` and `finished` since the server started."""
    first_token: Mapping[str, float] = field(default_factory=dict)
    """Requests whose first token came within an upper limit in seconds, since the server started."""


@dataclass(frozen=True)
class Watched:
    """One host."""

    host: str
    release: str
    cards: str
    readings: Sequence[Reading] = ()
    """Those of the observed time, the oldest first; empty where nothing could be read."""
    problem: str = ""
    """Why nothing is read."""

    @property
    def is_bad(self) -> bool:
        """Whether the host could not be read."""
        return bool(self.problem)


def cells(one: Watched) -> tuple[str, ...]:
    """Return the texts of a row. Rates and times are those of the observed time; `-` where there is nothing to measure."""
    head = (clean(one.host), one.release[:SHOWN_DIGITS])
    if one.problem or not one.readings:
        return (*head, "", "", "", "", "", "", clean(one.problem) or "reads")
    first, now = one.readings[0], one.readings[-1]
    return (
        *head,
        f"{now.values.get('running', 0):.0f}",
        f"{now.values.get('waiting', 0):.0f}",
        _rate(first, now, "finished"),
        _rate(first, now, "tokens"),
        _first_token(first, now),
        f"{now.values.get('cache', 0):.0%}",
        one.cards,
    )


def _rate(first: Reading, now: Reading, name: str) -> str:
    grown, seconds = now.values.get(name, 0.0) - first.values.get(name, 0.0), now.at - first.at
    # Less than before: the server was started again.
    return f"{grown / seconds:.1f}" if seconds > 0 and grown >= 0 else "-"


def _first_token(first: Reading, now: Reading) -> str:
    grown = {limit: total - first.first_token.get(limit, 0.0) for limit, total in now.first_token.items()}
    times = [quantile(grown, share) for share in (0.5, 0.99)]
    return ", ".join("-" if time is None else f"{time:.2g} s" for time in times) if any(times) else "-"


def quantile(buckets: Mapping[str, float], share: float) -> float | None:
    """Return a quantile of a histogram in Prometheus' form, as Prometheus' `histogram_quantile` does.

    Args:
        buckets: Number of values up to each upper limit, by the limit as text; `+Inf` has all of them.
        share: The quantile, from 0 to 1.

    Returns:
        The quantile, linear within its bucket; the largest finite limit where it lies above; None without values.
    """
    rows = sorted((float(limit), total) for limit, total in buckets.items())
    if not rows or rows[-1][1] <= 0:
        return None
    wanted, below, under = share * rows[-1][1], 0.0, 0.0
    for limit, total in rows:
        if total >= wanted and total > under:
            return below if limit == float("inf") else below + (limit - below) * (wanted - under) / (total - under)
        below, under = limit, total
    return None


def table(hosts: Sequence[Watched], *, height: int, seconds: float) -> Table:
    """Return the table: hosts that cannot be read first, and as many as the terminal has lines for.

    Args:
        hosts: The hosts.
        height: Lines of the terminal.
        seconds: The observed time, for the caption.
    """
    drawn = Table(box=None, pad_edge=False, caption_justify="left")
    for title in TITLES:
        drawn.add_column(title, no_wrap=True, overflow="ellipsis")
    rows = sorted(hosts, key=lambda one: not one.is_bad)
    shown = rows[: max(1, height - LINES_BESIDE)]
    for one in shown:
        drawn.add_row(*(Text(cell) for cell in cells(one)), style="red" if one.is_bad else "")
    if len(rows) > len(shown):
        drawn.add_row(Text(f"and {count(len(rows) - len(shown), 'more host')}"))
    drawn.caption = f"rates and times of the last {seconds:.0f} s; Ctrl-C ends"
    return drawn
