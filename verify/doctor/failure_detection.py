"""Detection of failures: a log in which nothing failed has no cause.

Each line has a severity. A text reports a failure when

1. a line is a failure (a traceback, an error level, an exit status), or
2. a line is a complaint, and the text does not end with a sign of success after it, or
3. a start begins and does not reach its end, or
4. the text is a few quoted lines that are not a log: whoever quotes so little has chosen them.

The patterns are in `verify/data/log_severity.toml`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from verify.doctor.text_decoding import LINE_BYTES
from verify.tables import table

QUOTE_LINES = 6
"""A text of at most this many lines is a quotation."""
LOG_LINES = 2
"""A text with at least this many lines of a log level is a log."""
BINARY_LINES, BINARY_SHARE = 3, 0.1
"""A file is binary when more than this share of the characters in its first lines occur in no text."""


class Severity(IntEnum):
    """How serious one line is."""

    NONE = 0
    """Neither a level nor a complaint: a row of a table, a command, a name."""
    INFO = 1
    """A program reports what it does, or how it is configured."""
    WARNING = 2
    """A program complains and continues."""
    COMPLAINT = 3
    """Words of complaint without a level."""
    FAILURE = 4


@dataclass(frozen=True)
class Assessment:
    """Whether one text reports a failure, and what kind of text it is."""

    failed: bool
    is_log: bool
    """A program wrote it."""
    is_quoted: bool = False
    """Somebody chose its few lines, so each of them counts."""
    is_unfinished: bool = False
    """It ends within a start, so lines of level INFO count as symptoms."""


_TABLE = table("log_severity")


def _pattern(kind: str) -> re.Pattern[str]:
    entry = _TABLE[kind]
    return re.compile("|".join(entry["patterns"]), re.IGNORECASE if entry.get("ignore_case") else 0)


_INFO, _WARNING, _FAILURE, _COMPLAINT = map(_pattern, ("info", "warning", "failure", "complaint"))
_HARMLESS, _SUCCESS, _STARTED = map(_pattern, ("harmless", "success", "started"))
_SUBJECT, _PROGRAM, _QUOTATION = map(_pattern, ("subject", "program", "quotation"))
_STARTS = tuple((re.compile(entry["begins"]), re.compile(entry["ends"])) for entry in _TABLE["start"])
"""The line that a start begins with, and the line that shows its end."""


def severity_of(line: str) -> Severity:
    """Return the severity of one line."""
    text = line[:LINE_BYTES]
    if not text.strip():
        return Severity.NONE
    if _INFO.search(text):
        return Severity.INFO
    is_warning = _WARNING.search(text) is not None and "NCCL WARN" not in text
    if not is_warning and _FAILURE.search(text) and not _HARMLESS.search(text):
        return Severity.FAILURE
    if is_warning:
        return Severity.WARNING
    return Severity.COMPLAINT if _COMPLAINT.search(text) and not _HARMLESS.search(text) else Severity.NONE


def is_quotation(line: str) -> bool:
    """Return whether a line quotes a command, a header or a program's advice: its words are no evidence."""
    return _QUOTATION.search(line[:LINE_BYTES]) is not None


def assess(lines: Sequence[str], signs: Iterable[str] = ()) -> Assessment:
    """Decide whether a text reports a failure.

    Args:
        lines: Its lines; of a long text the first, the last and those that match a signature.
        signs: The lines that match a signature with a weight of `scoring.SURE_AT` or more. Such a line is a failure
            unless its severity is INFO, or WARNING without an error in a server that started.
    """
    filled = [line for line in lines if line.strip()]
    if not filled or is_binary(filled[:BINARY_LINES]):
        return Assessment(failed=False, is_log=True)
    severities = [severity_of(line) for line in filled]
    is_log = severities.count(Severity.INFO) >= LOG_LINES
    quoted = len(filled) <= QUOTE_LINES
    least = Severity.WARNING if _first(_STARTED, filled) is None else Severity.COMPLAINT
    failed = Severity.FAILURE in severities or any(_is_failure(sign, least) for sign in signs)
    successes = [
        number
        for number, line in enumerate(filled)
        if severities[number] <= Severity.INFO and _SUCCESS.search(line[:LINE_BYTES])
    ]
    begin, least = (successes[-1] + 1, Severity.COMPLAINT) if successes else (0, Severity.WARNING)
    failed = failed or any(severity >= least for severity in severities[begin:])
    begun = ((number, end) for begin, end in _STARTS if (number := _first(begin, filled)) is not None)
    is_unfinished = not failed and any(_first(end, filled[number:]) is None for number, end in begun)
    chosen = quoted and not successes and (not is_log or _first(_COMPLAINT, filled) is not None)
    return Assessment(failed or is_unfinished or chosen, is_log, quoted, is_unfinished)


def _is_failure(sign: str, least: Severity) -> bool:
    severity = severity_of(sign)
    if severity is Severity.NONE or severity >= least:
        return True
    return severity is Severity.WARNING and _FAILURE.search(sign[:LINE_BYTES]) is not None


def _first(pattern: re.Pattern[str], lines: Sequence[str]) -> int | None:
    """Return the number of the first line that matches."""
    return next((number for number, line in enumerate(lines) if pattern.search(line[:LINE_BYTES])), None)


def is_binary(lines: Iterable[str]) -> bool:
    """Return whether these lines come from a file that is not text."""
    text = "".join(lines)
    count = sum(
        character == "\ufffd" or (character < " " and character not in "\t\r\x1b") or "\x7f" <= character < "\xa0"
        for character in text
    )
    return count > BINARY_SHARE * len(text)


def is_unrelated(lines: Sequence[str]) -> bool:
    """Return whether a program wrote a text that mentions nothing that the causes are about."""
    return _first(_PROGRAM, lines) is not None and _first(_SUBJECT, lines) is None
