"""`status --watch`: the metrics of each host, read again and again over its session until Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from provision.core.errors import Exit, UsageError
from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.fleet.ssh import Session, Task, fan_out, open_session
from provision.phases.serve.readiness import load
from provision.pipeline import CommandRequest
from provision.pipeline.phases import PROBE
from provision.pipeline.runner import as_interrupt, execute
from provision.report.layout import clean, count
from provision.report.summary_builder import describe_devices
from provision.run.rollback import readiness_of

EVERY_S = 2.0
OBSERVED_S = 30.0
"""Seconds that rates and times are taken over."""
DEADLINE_S = 20.0
TITLES = ("host", "release", "running", "waiting", "req/s", "tokens/s", "TTFT p50, p99", "cache", "GPUs")
SHOWN_DIGITS = 8
"""Digits of a release's digest; `status` shows all."""
LINES_BESIDE = 4
"""Terminal lines that show no host: head, caption, prompt."""


@dataclass
class WatchedHost:
    """A host that is watched, and what was read of it."""

    host: Host
    facts: HostFacts | None
    paths: InstallPaths | None
    readings: deque[Reading] = field(default_factory=deque)
    """Those of the observed time, the oldest first; empty where nothing could be read."""
    problem: str = ""
    """Why nothing is read."""
    release: str | None = None
    _session: Session | None = None

    def __post_init__(self) -> None:
        installed = self.facts.installed if self.facts else None
        self.release = installed.release if installed else None
        self._request = readiness_of(installed.state or {}) if installed else None
        if self.facts is None:
            self.problem = "not reached"
        elif self._request is None:
            self.problem = "serves nothing"

    @property
    def is_asked(self) -> bool:
        """Whether the host serves, so that it has metrics."""
        return self._request is not None

    def read(self) -> dict[str, Any]:
        """Read the metrics once, over a session that stays open."""
        assert self._request is not None
        assert self.paths is not None
        self._session = self._session or open_session(self.host)
        return load(self._session, prefix=self.paths.prefix, root=self.paths.root, request=self._request)

    def close(self) -> None:
        """End the session."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def take(self, answer: Mapping[str, Any] | None, error: BaseException | None) -> None:
        """Take an answer to `read`. Readings before a failure are forgotten, and the next one gets another session."""
        found = (answer or {}).get("load")
        if error is not None or not found:
            self.problem = str(error) if error is not None else "vLLM does not answer"
            self.readings.clear()
            if error is not None:
                self.close()
            return
        self.problem, self.release = "", (answer or {}).get("release")
        values = {name: value for name, value in found.items() if name != "first_token"}
        self.readings.append(Reading(time.monotonic(), values, found["first_token"]))
        while len(self.readings) > 2 and self.readings[-1].at - self.readings[1].at > OBSERVED_S:
            self.readings.popleft()

    @property
    def cards(self) -> str:
        """Return the GPUs of the host in short."""
        lines = describe_devices(self.facts)[:-1] if self.facts else ()
        return "; ".join(line.split(",")[0] for line in lines) or "none"


def watch(request: CommandRequest) -> int:
    """Show what hosts serve and how they are doing, until Ctrl-C.

    Raises:
        UsageError: Standard output is no terminal.
    """
    if not sys.stdout.isatty():
        raise UsageError(
            "`--watch` redraws a table, and standard output is no terminal", hint="leave it out, or give --json"
        )
    outcome = execute(request, (PROBE,))
    facts, paths = outcome.result.facts, outcome.result.install_paths
    hosts = [
        WatchedHost(host, facts.get(host.name), paths.get(host.name)) for host in outcome.hosts if host.is_provisioned
    ]
    try:
        with as_interrupt():
            _draw(hosts)
    except KeyboardInterrupt:
        return Exit.OK
    finally:
        for one in hosts:
            one.close()


def _draw(hosts: Sequence[WatchedHost]) -> NoReturn:
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            begun = time.monotonic()
            asked = [one for one in hosts if one.is_asked]
            done = fan_out(
                [
                    Task(host=one.host.name, call=one.read, deadline_s=DEADLINE_S, retries=0, cancel=one.close)
                    for one in asked
                ]
            )
            for one in asked:
                outcome = done.outcomes[one.host.name]
                one.take(outcome.value, outcome.error)
            live.update(table(hosts, height=console.height, seconds=OBSERVED_S), refresh=True)
            time.sleep(max(0.0, EVERY_S - (time.monotonic() - begun)))


@dataclass(frozen=True)
class Reading:
    """What a host's metrics said at one time."""

    at: float
    """Seconds of a clock that never goes back."""
    values: Mapping[str, float] = field(default_factory=dict)
    """`running`, `waiting`, `cache` (a share), and `tokens` and `finished` since the server started."""
    first_token: Mapping[str, float] = field(default_factory=dict)
    """Requests whose first token came within an upper limit in seconds, since the server started."""


def cells(one: WatchedHost) -> tuple[str, ...]:
    """Return the texts of a row. Rates and times are those of the observed time; `-` where there is nothing to measure."""
    head = (clean(one.host.name), (one.release or "none")[:SHOWN_DIGITS])
    if one.problem or not one.readings:
        return (*head, "", "", "", "", "", "", clean(one.problem) or "reads")
    first, now = one.readings[0], one.readings[-1]
    grown = {limit: total - first.first_token.get(limit, 0.0) for limit, total in now.first_token.items()}
    times = [quantile(grown, share) for share in (0.5, 0.99)]
    return (
        *head,
        f"{now.values.get('running', 0):.0f}",
        f"{now.values.get('waiting', 0):.0f}",
        _rate(first, now, "finished"),
        _rate(first, now, "tokens"),
        ", ".join("-" if time is None else f"{time:.2g} s" for time in times) if any(times) else "-",
        f"{now.values.get('cache', 0):.0%}",
        one.cards,
    )


def _rate(first: Reading, now: Reading, name: str) -> str:
    grown, seconds = now.values.get(name, 0.0) - first.values.get(name, 0.0), now.at - first.at
    # Less than before: the server was started again.
    return f"{grown / seconds:.1f}" if seconds > 0 and grown >= 0 else "-"


def quantile(buckets: Mapping[str, float], share: float) -> float | None:
    """Return a quantile of a histogram in Prometheus' form, as its `histogram_quantile` does; None without values.

    `buckets` has the number of values up to each limit, by the limit as text; `+Inf` has all of them. The quantile is linear within
    its bucket, and the largest finite limit where it lies above.
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


def table(hosts: Sequence[WatchedHost], *, height: int, seconds: float) -> Table:
    """Return the table: hosts that cannot be read first, and as many as a terminal of this height has lines for."""
    drawn = Table(box=None, pad_edge=False, caption_justify="left")
    for title in TITLES:
        drawn.add_column(title, no_wrap=True, overflow="ellipsis")
    rows = sorted(hosts, key=lambda one: not one.problem)
    shown = rows[: max(1, height - LINES_BESIDE)]
    for one in shown:
        drawn.add_row(*(Text(cell) for cell in cells(one)), style="red" if one.problem else "")
    if len(rows) > len(shown):
        drawn.add_row(Text(f"and {count(len(rows) - len(shown), 'more host')}"))
    drawn.caption = f"rates and times of the last {seconds:.0f} s; Ctrl-C ends"
    return drawn
