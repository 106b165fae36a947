"""Progress on stderr during a run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Self, TextIO

from provision.core.formatting import GIB, format_bytes
from provision.core.models.records import PHASES, PhaseName, PhaseResult
from provision.core.redaction import redact
from provision.report.group import kind_of_hint
from provision.report.layout import clean, duration
from verify.printable import printable, unguarded

BYTES_EVERY_S = 10.0
"""Minimum interval between two plain lines about one transfer."""


class Progress:
    """Receives progress reports from the pipeline and the phases, from any thread. This one shows nothing."""

    shows_current = False
    """Whether `current` is shown: what nobody sees need not be asked of hosts."""

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
        from provision.report.live_table import LiveProgress

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
        self._hinted: set[str] = set()

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
                self._line(printable(line))

    def detail(self, host: str, text: str) -> None:
        if self._verbose:
            self.note(host, text)

    def finish(self, host: str, result: PhaseResult) -> None:
        with self._lock:
            self._line(
                f"  {clean(host)}: {self._titles.get(result.phase, result.phase)} {ending(result)} ({duration(result.seconds)})"
            )
            if result.hint and result.status not in ("ok", "skipped") and self._is_new(result.hint, result.status):
                self._line(f"    hint: {printable_line(result.hint)}")

    def _is_new(self, hint: str, status: str) -> bool:
        """Return whether a hint is to be printed: of hosts that are not reached for one reason, the first one's stands for all."""
        if status != "unreachable":
            return True
        kind = kind_of_hint(hint)
        if kind in self._hinted:
            return False
        self._hinted.add(kind)
        return True

    def _line(self, text: str) -> None:
        # A closed terminal does not end the run; the summary is written anyway.
        with contextlib.suppress(OSError):
            self._stream.write(f"[{time.monotonic() - self._started:6.1f} s] {text}\n")
            self._stream.flush()


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
