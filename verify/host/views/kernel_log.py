"""Kernel log since boot with times, from the journal."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from verify.files import printed

JOURNAL = ("journalctl", "--dmesg", "--boot", "--quiet", "--no-pager", "--output=short-unix")
JOURNAL_LIMIT_S = 20.0
_STAMPED = re.compile(r"(?P<at>\d{9,}\.\d+) \S+ kernel: (?P<text>.*)")


class Line(NamedTuple):
    """`at` is in seconds since 1970."""

    at: float
    text: str


def lines() -> list[Line]:
    """Return the lines since boot, oldest first; none where there is no journal, or this user may not read it."""
    journal = printed(JOURNAL, limit_s=JOURNAL_LIMIT_S, may_fail=False) or ""
    return list(of_journal(journal.splitlines()))


def of_journal(answer: Iterable[str]) -> Iterator[Line]:
    """Parse `journalctl --output=short-unix`."""
    for line in answer:
        if found := _STAMPED.match(line):
            yield Line(float(found["at"]), found["text"])
