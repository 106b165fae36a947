"""Whether anything failed. Decided before any cause is weighed: a log in which nothing failed has no finding.

Each line has a tone: it fails (a traceback, an error level, an exit status), complains, warns, or reports. A text has failed
when a line of it fails, or when one complains and the text does not end well. Of a few quoted lines without a report around
them somebody thought that they tell of a failure, so they are taken for one. The patterns are in tones.toml. Pure: lines in, verdict out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from verify.doctor.catalog import table
from verify.doctor.reading import LINE_BYTES

QUOTE_LINES = 6
"""As many lines without a report among them are a quotation: whoever gives no more chose them."""
LOG_LINES = 2
"""From as many reports on a text is a program's log and no person's words."""
NOISE_LINES, MOST_NOISE = 3, 0.1
"""A file that begins with more than this share of characters that no text holds is none."""


class Tone(IntEnum):
    """What a line says of its program's state."""

    PLAIN = 0
    """Neither a level nor a complaint: a table, a command, a name."""
    REPORTS = 1
    """A program says what it does, or what it was configured to do."""
    WARNS = 2
    """A program complains and goes on."""
    COMPLAINS = 3
    FAILS = 4


@dataclass(frozen=True)
class Verdict:
    """Of one text."""

    failed: bool
    is_log: bool
    """Whether a program wrote it down as it went: its words are no person's."""
    is_quoted: bool = False
    """Whether somebody chose its few lines, so that each of them tells."""
    is_unfinished: bool = False
    """Whether it ends in the middle of a start, so that what is only reported may tell as well."""


_TABLE = table("tones")


def _pattern(kind: str) -> re.Pattern[str]:
    entry = _TABLE[kind]
    return re.compile("|".join(entry["patterns"]), re.IGNORECASE if entry.get("ignore_case") else 0)


_REPORTS, _WARNS, _FAILS, _COMPLAINS = map(_pattern, ("reports", "warns", "fails", "complains"))
_HARMLESS, _ENDS_WELL, _STARTED = map(_pattern, ("harmless", "ends_well", "started"))
_SUBJECT, _PROGRAM = map(_pattern, ("subject", "program"))
_BEGUN = tuple((re.compile(entry["begins"]), re.compile(entry["ends"])) for entry in _TABLE["start"])
"""What a start begins with, and what a log of it has when it ended: where that is missing, the start did not get there."""


def tone(line: str) -> Tone:
    """What one line says of its program's state."""
    text = line[:LINE_BYTES]
    if not text.strip():
        return Tone.PLAIN
    if _REPORTS.search(text):
        return Tone.REPORTS
    warns = _WARNS.search(text) is not None and "NCCL WARN" not in text
    if not warns and _FAILS.search(text) and not _HARMLESS.search(text):
        return Tone.FAILS
    if warns or (_COMPLAINS.search(text) and not _HARMLESS.search(text)):
        return Tone.WARNS if warns else Tone.COMPLAINS
    return Tone.PLAIN


def verdict(lines: Sequence[str], signs: Iterable[str] = ()) -> Verdict:
    """Whether a text tells of a failure: its lines, or of a long one the first and the last and those that are signs.

    `signs`: those of its lines that make a cause sure by themselves. One is a failure unless it is a report, or a warning
    without an error in it of a server that started all the same.
    """
    told = [line for line in lines if line.strip()]
    if not told or is_noise(told[:NOISE_LINES]):
        return Verdict(failed=False, is_log=True)
    tones = [tone(line) for line in told]
    is_log = tones.count(Tone.REPORTS) >= LOG_LINES
    quoted = len(told) <= QUOTE_LINES
    least = Tone.COMPLAINS if any(_STARTED.search(line[:LINE_BYTES]) for line in told) else Tone.WARNS
    if Tone.FAILS in tones or any(_is_failure(sign, least) for sign in signs):
        return Verdict(failed=True, is_log=is_log, is_quoted=quoted)
    ends = [n for n, line in enumerate(told) if tones[n] <= Tone.REPORTS and _ENDS_WELL.search(line[:LINE_BYTES])]
    if any(each >= (Tone.COMPLAINS if ends else Tone.WARNS) for each in tones[ends[-1] + 1 if ends else 0 :]):
        return Verdict(failed=True, is_log=is_log, is_quoted=quoted)
    if any(_is_open(told, *begun) for begun in _BEGUN):
        return Verdict(failed=True, is_log=is_log, is_quoted=quoted, is_unfinished=True)
    chosen = quoted and not ends and (not is_log or any(_COMPLAINS.search(line[:LINE_BYTES]) for line in told))
    return Verdict(failed=chosen, is_log=is_log, is_quoted=quoted)


def _is_failure(sign: str, least: Tone) -> bool:
    said = tone(sign)
    return said is Tone.PLAIN or said >= least or (said is Tone.WARNS and _FAILS.search(sign[:LINE_BYTES]) is not None)


def _is_open(lines: Sequence[str], begin: re.Pattern[str], end: re.Pattern[str]) -> bool:
    begun = next((place for place, line in enumerate(lines) if begin.search(line[:LINE_BYTES])), None)
    return begun is not None and not any(end.search(line[:LINE_BYTES]) for line in lines[begun:])


def is_noise(lines: Iterable[str]) -> bool:
    """Whether these are bytes of something that is no text."""
    text = "".join(lines)
    noise = sum(
        character == "\ufffd" or (character < " " and character not in "\t\r\x1b") or "\x7f" <= character < "\xa0"
        for character in text
    )
    return noise > MOST_NOISE * len(text)


def is_foreign(lines: Sequence[str]) -> bool:
    """Whether a program wrote a text in which nothing is about anything that causes are about."""
    return any(_PROGRAM.search(line[:LINE_BYTES]) for line in lines) and not any(
        _SUBJECT.search(line[:LINE_BYTES]) for line in lines
    )
