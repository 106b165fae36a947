"""Live table: one row a host with phase, bytes and seconds. Needs a terminal.

The table appears after a short delay, so that a run with nothing to do does not import rich.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from provision.core.formatting import format_bytes
from provision.core.models.records import PhaseName, PhaseResult
from provision.report.layout import clean, count, duration
from provision.report.live import Progress, printable_line
from verify.printable import printable

APPEARS_AFTER_S = 0.4
REDRAWS_PER_S = 8.0
PHASE_COLUMNS = len("5/6 install")
LINES_BESIDE = 6
"""Terminal lines that show no host: head, tail, prompt."""


@dataclass
class Row:
    """One host's displayed state."""

    host: str
    phase: PhaseName | None = None
    entered: float = 0.0
    done: int = 0
    total: int = 0
    text: str = ""
    results: dict[str, PhaseResult] = field(default_factory=dict)

    @property
    def urgency(self) -> int:
        """Sort key: failed hosts first, then working ones, then waiting and finished ones."""
        if any(result.has_failed for result in self.results.values()):
            return 0
        if self.phase is not None and self.phase not in self.results:
            return 1
        return 2


class LiveProgress(Progress):
    """Keeps the rows under one lock; a separate thread imports rich and draws."""

    shows_current = True

    def __init__(self, hosts: Sequence[str], stream: TextIO, titles: Mapping[PhaseName, str]) -> None:
        self._steps = {phase: f"{at}/{len(titles)} {title}" for at, (phase, title) in enumerate(titles.items(), 1)}
        self._rows = {host: Row(host) for host in hosts}
        self._lines: list[str] = []
        self._stream = stream
        self._lock = threading.RLock()
        self._started = time.monotonic()
        self._closing = threading.Event()
        self._drawer = threading.Thread(target=self._draw, name="live view", daemon=True)

    def phase(self, host: str, phase: PhaseName) -> None:
        with self._lock:
            row = self._row(host)
            row.phase, row.entered, row.done, row.total, row.text = phase, time.monotonic(), 0, 0, ""

    def bytes(self, host: str, done: int, total: int) -> None:
        with self._lock:
            row = self._row(host)
            row.done, row.total = done, total

    def note(self, host: str, text: str) -> None:
        with self._lock:
            self._row(host).text = printable_line(text)

    def current(self, host: str, text: str) -> None:
        self.note(host, text)

    def lines(self, lines: Sequence[str]) -> None:
        with self._lock:
            self._lines += [printable(line) for line in lines]

    def finish(self, host: str, result: PhaseResult) -> None:
        with self._lock:
            row = self._row(host)
            row.results[result.phase] = result
            row.done, row.total, row.text = 0, 0, printable_line(result.text or "")

    def _row(self, host: str) -> Row:
        return self._rows.setdefault(host, Row(host))

    def __enter__(self) -> Self:
        self._drawer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._drawer.join()

    def _draw(self) -> None:
        """Redraw until closed; the terminal is always restored."""
        if self._closing.wait(APPEARS_AFTER_S):
            return
        console = Console(file=self._stream, highlight=False)
        live: Live
        # A closed terminal ends the drawing, not the run.
        with contextlib.suppress(OSError), Live(console=console, auto_refresh=False, transient=True) as live:
            live.update(self._table(console), refresh=True)
            while not self._closing.wait(1 / REDRAWS_PER_S):
                with self._lock:
                    lines, self._lines = self._lines, []
                for line in lines:
                    console.print(line, markup=False)
                live.update(self._table(console), refresh=True)

    def _table(self, console: Console) -> RenderableType:
        with self._lock:
            rows = sorted(self._rows.values(), key=lambda row: row.urgency)
            shown = rows[: max(1, console.height - LINES_BESIDE)]
            # Only the last column gives way to the width of the terminal.
            table = Table(box=None, expand=True, pad_edge=False)
            table.add_column("host", no_wrap=True, overflow="ellipsis", max_width=max(12, console.width // 4))
            for title, columns in (("phase", PHASE_COLUMNS), ("status", len("unreachable")), ("time", len("59 min"))):
                table.add_column(title, no_wrap=True, min_width=columns)
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
            now = time.monotonic()
            for row in shown:
                style = ("red", "", "dim")[row.urgency]
                table.add_row(*(Text(cell) for cell in self._cells(row, now)), style=style)
            if len(rows) > len(shown):
                table.add_row(Text(f"and {count(len(rows) - len(shown), 'more host')}"))
        table.caption = f"{duration(now - self._started)} in all"
        table.caption_justify = "left"
        return table

    def _cells(self, row: Row, now: float) -> tuple[str, str, str, str, str]:
        if row.phase is None:
            return clean(row.host), "", "waiting", "", ""
        result = row.results.get(row.phase)
        seconds = result.seconds if result else now - row.entered
        step = self._steps.get(row.phase, row.phase)
        status = ("changed" if result.changed and result.status == "ok" else result.status) if result else "running"
        moved = f"{format_bytes(row.done)} of {format_bytes(row.total)}" if row.total > 0 else ""
        return clean(row.host), step, status, duration(seconds), " ".join(filter(None, (moved, row.text)))
