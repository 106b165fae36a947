"""Kernel log since boot with times, from the journal or from the kernel's buffer."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from verify.files import printed

KMSG = Path("/dev/kmsg")
STAT = Path("/proc/stat")
JOURNAL = ("journalctl", "--dmesg", "--boot", "--quiet", "--no-pager", "--output=short-unix")
JOURNAL_LIMIT_S = 20.0
LONGEST_RECORD = 8192
"""Size of a record of /dev/kmsg: CONSOLE_EXT_LOG_MAX of the kernel's printk."""

_STAMPED = re.compile(r"(?P<at>\d{9,}\.\d+) \S+ kernel: (?P<text>.*)")
_RECORD = re.compile(r"\d+,\d+,(?P<usec>\d+),[^;]*;(?P<text>.*)")


class Line(NamedTuple):
    """`at` is in seconds since 1970."""

    at: float
    text: str


class UnreadableError(Exception):
    """This user cannot read the kernel log; the message lists what was tried."""


def lines() -> tuple[list[Line], str]:
    """Return the lines since boot, oldest first, and their source. Raises UnreadableError."""
    journal = printed(JOURNAL, limit_s=JOURNAL_LIMIT_S, may_fail=False) or ""
    if found := list(of_journal(journal.splitlines())):  # a user without permission gets an empty answer
        return found, " ".join(JOURNAL)
    try:
        return list(of_kmsg(_records(), booted_at(STAT.read_text()))), str(KMSG)
    except OSError as error:
        raise UnreadableError(f"journalctl: no line; {KMSG}: {error.strerror}") from None


def of_journal(answer: Iterable[str]) -> Iterator[Line]:
    """Parse `journalctl --output=short-unix`."""
    for line in answer:
        if found := _STAMPED.match(line):
            yield Line(float(found["at"]), found["text"])


def of_kmsg(records: Iterable[str], booted: float) -> Iterator[Line]:
    """Parse records of /dev/kmsg: microseconds since boot, without the time the host slept."""
    for record in records:
        if found := _RECORD.match(record):
            yield Line(booted + int(found["usec"]) / 1e6, found["text"])


def booted_at(stat: str) -> float:
    """Return `btime` of /proc/stat in seconds since 1970; 0 without it."""
    found = re.search(r"^btime (\d+)$", stat, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _records() -> Iterator[str]:
    descriptor = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            with suppress(BrokenPipeError):  # the buffer overtook this reader, which continues with the oldest record
                yield os.read(descriptor, LONGEST_RECORD).decode(errors="replace").partition("\n")[0]
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)
