"""Shell commands on a page, broken over lines so that a copy still runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from provision.report.layout import COLUMNS, clean, width
from provision.report.next_steps import purpose

FLAG = re.compile(r"-\w|>")
_WORD = re.compile(r"""(?:'[^']*'|"(?:[^"$]|\$(?!\())*(?:"|\$\()|\)"|\S)+""")
"""A word: text in quotes, in double quotes up to the command that they hold, the end of that command, or other signs."""

_MEMBERS = re.compile(r"""(?<=,)(?=")""")
"""The place between two members of a JSON object; a comma and a quote within a member have a backslash between them."""


def command(text: str, *, indent: str = "  ", columns: int = COLUMNS) -> list[str]:
    """Return a command as lines that can be copied and run.

    Lines break with a backslash between words outside quotes. Of the words that are too long for a line, a JSON object in quotes becomes
    several quoted texts that the shell joins, so those after the first begin in the first column. Others are not cut: each has its own line.
    """
    lines: list[str] = []
    line = indent
    found: list[str] = []
    for word in words(clean(text)):
        if found and FLAG.fullmatch(found[-1]):
            found[-1] += f" {word}"  # an option stays with its value, and `>` with its file
        else:
            found.append(word)
    for number, word in enumerate(found, 1):
        most = columns - (0 if number == len(found) else 2)
        if not line.strip():
            line += word
        elif width(line) + 1 + width(word) <= most:
            line += f" {word}"
        else:
            lines.append(f"{line} \\")
            line = f"{indent}  {word}"
        while "'{" in word and width(line) > most and (cut := _cut(line, columns)):
            lines.append(f"{line[:cut]}'\\")
            line = f"'{line[cut:]}"
    return [*lines, line]


def _cut(line: str, columns: int) -> int:
    """Return where quotes and a backslash fit in between two members of a JSON object: the last such place in a line, else the first; 0 without any."""
    places = [found.start() for found in _MEMBERS.finditer(line)]
    return max((place for place in places if width(line[:place]) + 2 <= columns), default=min(places, default=0))


def purposes_and_commands(commands: Iterable[str], indent: int) -> Iterator[list[str]]:
    """Yield the lines of each command with its purpose before it, aligned; the first line of each still lacks the indent."""
    named = [(purpose(entry), entry) for entry in commands]
    widest = max((width(name) for name, _ in named), default=0) + 2
    for name, entry in named:
        # What follows the first line is indented already, or goes on in the first column, as the shell needs it.
        first, *rest = command(entry, indent=" " * (indent + widest))
        yield [name.ljust(widest) + first.lstrip(), *rest]


def rows(lines: Iterable[str], columns: int = COLUMNS) -> int:
    """Return how many lines of a terminal the lines of a command take."""
    return sum(max(-(-width(line) // columns), 1) for line in lines)


def words(text: str) -> list[str]:
    """Split a command at blanks outside quotes, also at those of a command within `"$(...)"`."""
    return _WORD.findall(text)
