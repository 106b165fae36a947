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

from provision.core.errors import Exit, UsageError
from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.fleet.ssh import Session, Task, fan_out, open_session
from provision.phases.serve.readiness import load
from provision.pipeline import CommandRequest
from provision.pipeline.phases import PROBE
from provision.pipeline.runner import execute
from provision.pipeline.signals import as_interrupt
from provision.report.devices import describe_devices
from provision.report.watch import Reading, Watched, table
from provision.run.rollback import readiness_of

EVERY_S = 2.0
OBSERVED_S = 30.0
"""Seconds that rates and times are taken over."""
DEADLINE_S = 20.0


@dataclass
class WatchedHost:
    """A host that is watched, and what was read of it."""

    host: Host
    facts: HostFacts | None
    paths: InstallPaths | None
    readings: deque[Reading] = field(default_factory=deque)
    problem: str = ""
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

    def row(self) -> Watched:
        """Return the host as the table shows it."""
        lines = describe_devices(self.facts)[:-1] if self.facts else ()
        cards = "; ".join(line.split(",")[0] for line in lines) or "none"
        return Watched(self.host.name, self.release or "none", cards, tuple(self.readings), self.problem)


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
            rows = [one.row() for one in hosts]
            live.update(table(rows, height=console.height, seconds=OBSERVED_S), refresh=True)
            time.sleep(max(0.0, EVERY_S - (time.monotonic() - begun)))
