"""Progress on stderr during a run: a live table on a terminal, plain lines elsewhere.

The table has a row a host, and appears after a short delay, so that a run with nothing to do shows none.
"""

import contextlib
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from provision.core.folders import as_typed
from provision.core.formatting import GIB, format_bytes
from provision.core.models.records import PHASES, PhaseName, PhaseResult
from provision.core.redaction import redact
from provision.report.group import kind_of_hint
from provision.report.layout import clean, count, duration
from verify.printable import printable, unguarded

BYTES_EVERY_S = 10.0
"""Minimum interval between two plain lines about one transfer."""
APPEARS_AFTER_S = 0.4
REDRAWS_PER_S = 8.0
PHASE_COLUMNS = len("5/6 install")
LINES_BESIDE = 6
"""Terminal lines that show no host: head, tail, prompt."""


class Progress:
    """Receives progress reports from the pipeline and the phases, from any thread. This one shows nothing."""

    shows_current = False
    """Whether `current` is shown: what nobody sees need not be asked of hosts."""
    complete: Callable[[str], str] = str
    """Completes the commands in a hint or a line that stays for the hosts of the run."""

    def phase(self, host: str, phase: PhaseName) -> None:
        """A host enters a phase."""

    def bytes(self, host: str, done: int, total: int) -> None:
        """Report `done` of `total` bytes transferred."""

    def note(self, host: str, text: str) -> None:
        """Report an event worth a line: a download, a retry."""

    def lines(self, lines: Sequence[str]) -> None:
        """Print lines that stay."""

    def current(self, host: str, text: str) -> None:
        """Report what a host does at this moment: a table shows it until the next report, plain lines leave it out."""

    def detail(self, host: str, text: str) -> None:
        """Report what only `--verbose` shows: a line of the service's log."""

    def finish(self, host: str, result: PhaseResult) -> None:
        """A host leaves a phase."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the view."""


def open_progress(
    hosts: Sequence[str],
    *,
    titles: Mapping[PhaseName, str] | None = None,
    verbose: bool = False,
    stream: TextIO | None = None,
    environment: Mapping[str, str] | None = None,
) -> Progress:
    """Return a live table on a terminal that can redraw, else plain lines.

    Args:
        titles: What the phases of the run are called, in their order; all phases by their names when None.
        stream: Where it is shown; standard error when None.
        environment: Environment variables, which name the kind of terminal.
    """
    named = titles or {phase: phase for phase in PHASES}
    out = stream or unguarded(sys.stderr)
    if not verbose and is_live(out, environment if environment is not None else os.environ):
        return LiveProgress(hosts, out, named)
    return PlainProgress(out, named, verbose=verbose)


def is_live(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether the stream is a terminal that can redraw a table, outside CI."""
    return stream.isatty() and environment.get("TERM", "dumb") not in ("", "dumb") and not environment.get("CI")


class PlainProgress(Progress):
    """Plain lines: when the first host enters a phase, when a host leaves it, and periodically for bytes."""

    def __init__(self, stream: TextIO, titles: Mapping[PhaseName, str] | None = None, *, verbose: bool = False) -> None:
        self._stream = stream
        self._titles = titles or {}
        self._verbose = verbose
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._entered: set[str] = set()
        self._bytes_said: dict[str, float] = {}
        self._hinted: set[str | None] = set()

    def phase(self, host: str, phase: PhaseName) -> None:  # noqa: ARG002 - one line stands for all hosts
        with self._lock:
            if phase not in self._entered:
                self._entered.add(phase)
                self._line(self._titles.get(phase, phase))

    def bytes(self, host: str, done: int, total: int) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._bytes_said.setdefault(host, now) >= BYTES_EVERY_S:
                self._bytes_said[host] = now
                self._line(f"  {clean(host)}: {format_bytes(done)} of {format_bytes(total)}")

    def note(self, host: str, text: str) -> None:
        with self._lock:
            self._line(f"  {clean(host)}: {printable_line(text)}")

    def lines(self, lines: Sequence[str]) -> None:
        with self._lock:
            for line in lines:
                self._line(printable(self.complete(line)))

    def detail(self, host: str, text: str) -> None:
        if self._verbose:
            self.note(host, text)

    def finish(self, host: str, result: PhaseResult) -> None:
        with self._lock:
            self._line(
                f"  {clean(host)}: {self._titles.get(result.phase, result.phase)} {ending(result)} ({duration(result.seconds)})"
            )
            # Of hosts that are not reached for one reason, the hint of the first one stands for all.
            kind = kind_of_hint(result.hint or "") if result.status == "unreachable" else None
            if result.hint and result.status not in ("ok", "skipped") and kind not in self._hinted:
                self._line(f"    hint: {printable_line(self.complete(result.hint))}")
            self._hinted |= {kind} - {None}

    def _line(self, text: str) -> None:
        # A closed terminal does not end the run; the summary is written anyway.
        with contextlib.suppress(OSError):
            self._stream.write(f"[{time.monotonic() - self._started:6.1f} s] {as_typed(text)}\n")
            self._stream.flush()


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
    """Keeps the rows under one lock; threads of rich draw them. The terminal is always restored."""

    shows_current = True

    def __init__(self, hosts: Sequence[str], stream: TextIO, titles: Mapping[PhaseName, str]) -> None:
        self._steps = {phase: f"{at}/{len(titles)} {title}" for at, (phase, title) in enumerate(titles.items(), 1)}
        self._rows = {host: Row(host) for host in hosts}
        self._lock = threading.RLock()
        self._started = time.monotonic()
        self._console = Console(file=stream, highlight=False)
        self._live = Live(
            console=self._console, get_renderable=self._table, refresh_per_second=REDRAWS_PER_S, transient=True
        )
        self._appearance = threading.Timer(APPEARS_AFTER_S, self._appear)
        self._appearance.daemon = True

    def phase(self, host: str, phase: PhaseName) -> None:
        with self._lock:
            row = self._row(host)
            row.results.pop(phase, None)  # a host may enter its last phase again, for what follows the service
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
        with contextlib.suppress(OSError):
            for line in lines:
                text = as_typed(printable(self.complete(line)))
                indent = " " * (len(text) - len(text.lstrip()) + 4)
                parts = textwrap.wrap(
                    text, self._console.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
                )
                self._console.print("\n".join(parts), markup=False)

    def finish(self, host: str, result: PhaseResult) -> None:
        with self._lock:
            row = self._row(host)
            row.results[result.phase] = result
            row.done, row.total, row.text = 0, 0, printable_line(result.text or "")

    def _row(self, host: str) -> Row:
        return self._rows.setdefault(host, Row(host))

    def __enter__(self) -> Self:
        self._appearance.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._appearance.cancel()
        self._appearance.join()
        with contextlib.suppress(OSError):
            self._live.stop()

    def _appear(self) -> None:
        # A closed terminal ends the drawing, not the run.
        with contextlib.suppress(OSError):
            self._live.start(refresh=True)

    def _table(self) -> RenderableType:
        console = self._console
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
        moved = f"{format_bytes(row.done)} of {format_bytes(row.total)}" if row.done < row.total else ""
        return clean(row.host), step, status, duration(seconds), " ".join(filter(None, (moved, row.text)))


def report_progress(what: str, done: int, total: int) -> None:
    """Print the bytes done of all, over the line before."""
    if sys.stderr.isatty() and total:
        end = "\n" if done >= total else ""
        stream = unguarded(sys.stderr)
        stream.write(f"\r{printable(what)} {done / GIB:.1f} of {total / GIB:.1f} GiB{end}")
        stream.flush()


def ending(result: PhaseResult) -> str:
    """Return how a phase ended: `ok, changed` or `failed: no space left`."""
    word = f"{result.status}, changed" if result.changed else result.status
    return f"{word}: {printable_line(result.text)}" if result.text and result.status != "ok" else word


def printable_line(text: str) -> str:
    """Return any text as one redacted, printable line."""
    return redact(clean(text))
