"""Text layout in the width of the terminal, at most 100 columns: cleaning, measuring, wrapping, shortening, folding of names."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from verify.printable import WIDTH, printable

COLUMNS = WIDTH
WIDEST = 34
"""Columns of a head cell of a table."""

Text: TypeAlias = str | tuple[str, ...]
"""A sentence, or its pieces where lines may only break between pieces."""

_WORD = re.compile(r"""(?:(?<![^\s(=`])(?:'[^']*'|"[^"]*")(?![^\s.,;:)`])|\S)+""")
"""A word, or a quoted path with its blanks: a command that is broken inside one does not run."""
_FIRST_COLUMN = re.compile(r" *(?:[-+~?!x] )?(?:\S+(?: \S+)*? {2,})?")
"""The indent of a line, and its first column where two blanks end it."""
_NUMBERED = re.compile(r"^(.*?)([0-9]{1,18})([^0-9]*)$", re.DOTALL)


def clean(text: str) -> str:
    """Return text as one line without control sequences, words separated by one blank."""
    return " ".join(printable(text).split())


def width(text: str) -> int:
    """Return the terminal columns of cleaned text; a combining mark counts as one, so the result is never too small."""
    return len(text) if text.isascii() else sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def split_at(text: str, columns: int) -> tuple[str, str]:
    """Split text so that the head has at most `columns` columns (and at least one character)."""
    used = 0
    for index, char in enumerate(text):
        used += width(char)
        if used > columns and index:
            return text[:index], text[index:]
    return text, ""


def wrap(text: Text, *, first: str = "", rest: str | None = None, columns: int = COLUMNS) -> list[str]:
    """Wrap cleaned text; the first line begins with `first`, others with `rest` (default: blanks as wide as `first`)."""
    follow = " " * width(first) if rest is None else rest
    lines: list[str] = []
    line, columns_left = first, columns - width(first)
    empty = True
    for word in _WORD.findall(clean(text)) if isinstance(text, str) else map(clean, text):
        remaining = word
        while remaining:
            gap = 0 if empty else 1
            if width(remaining) + gap <= columns_left:
                line += " " * gap + remaining
                columns_left -= width(remaining) + gap
                remaining, empty = "", False
            elif empty:
                head, remaining = split_at(remaining, columns_left)
                lines.append(line + head)
                line, columns_left = follow, columns - width(follow)
            else:
                lines.append(line)
                line, columns_left, empty = follow, columns - width(follow), True
    if not empty or not lines:
        lines.append(line.rstrip())
    return lines


def folded(text: str) -> str:
    """Return a text whose lines longer than `COLUMNS` go on below their last column."""
    lines: list[str] = []
    for line in text.split("\n"):
        found = _FIRST_COLUMN.match(line)
        first = found[0] if found and len(found[0]) < COLUMNS // 2 else ""
        lines += [line] if width(line) <= COLUMNS else wrap(line[len(first) :], first=first)
    return "\n".join(lines)


def shortened(text: str, most: int, *, first: str = "", columns: int = COLUMNS) -> list[str]:
    """Wrap text to at most `most` lines; ` ...` marks a cut text."""
    lines = wrap(text, first=first, columns=columns)
    if len(lines) > most:
        start = first if most == 1 else " " * width(first)
        head = lines[most - 1][len(start) :]
        lines[most - 1] = start + split_at(head, columns - width(start) - 4)[0].rstrip() + " ..."
    return lines[:most]


def fitted(items: Sequence[str], most: int, *, columns: int = COLUMNS, rest: str = "") -> list[str]:
    """Fit items into at most `most` lines: each as complete as possible, then a count of omitted items.

    `rest` is appended to that count and tells where the others are.
    """
    for each in (most, 3, 2, 1):
        lines = [line for item in items for line in shortened(item, each, columns=columns)]
        if len(lines) <= most:
            return lines
    kept = max(most - 1, 1)
    more = f"and {len(items) - kept} more{rest}"
    if most > 1:
        return [*lines[:kept], *shortened(more, 1, columns=columns)]
    return [f"{shortened(items[0], 1, columns=columns - width(more) - 2)[0]}; {more}"]


def table(rows: Iterable[tuple[Sequence[str], Text]], *, indent: str = "  ") -> list[str]:
    """Return aligned rows: head cells cut at `WIDEST`, and a last cell that wraps below itself."""
    cells = [([_cut(clean(cell)) for cell in head], last) for head, last in rows]
    if not cells:
        return []
    widths = [max(width(head[column]) for head, _ in cells) for column in range(len(cells[0][0]))]
    lines: list[str] = []
    for head, last in cells:
        first = indent + "".join(
            cell + " " * (columns - width(cell) + 2) for cell, columns in zip(head, widths, strict=True)
        )
        if width(first) > COLUMNS * 2 // 3 and last:
            lines += wrap("  ".join(head), first=indent)
            lines += wrap(last, first=indent + "    ")
        else:
            lines += [line.rstrip() for line in wrap(last, first=first)]
    return lines


def _cut(text: str) -> str:
    return text if width(text) <= WIDEST else split_at(text, WIDEST - 1)[0] + "…"


def fold_names(names: Sequence[str]) -> str:
    """Fold names into ranges: `gpu-1, gpu-2, gpu-3, login` becomes `gpu-[1:3], login`; the order is kept."""
    parts: list[str] = []
    numbered = [_NUMBERED.match(name) for name in names]
    index = 0
    while index < len(names):
        end = index
        while end + 1 < len(names) and _follows(numbered[end], numbered[end + 1]):
            end += 1
        first, last = numbered[index], numbered[end]
        if end - index >= 2 and first and last:
            parts.append(f"{first[1]}[{first[2]}:{last[2]}]{first[3]}")
        else:
            parts += names[index : end + 1]
        index = end + 1
    return ", ".join(parts)


def _follows(one: re.Match[str] | None, two: re.Match[str] | None) -> bool:
    if not one or not two or (one[1], one[3]) != (two[1], two[3]):
        return False
    padded = len(one[2]) == len(two[2]) or "0" not in (one[2][0], two[2][0])
    return padded and int(two[2]) == int(one[2]) + 1


def quoted(names: Iterable[str]) -> str:
    """Return names as a message lists them: `a`, `b`."""
    return ", ".join(f"`{name}`" for name in names)


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 host`, `3 hosts`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Return seconds in a readable unit: `0.4 s`, `94 s`, `12 min`, `3 h`, `5 days`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172800:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def span(values: Sequence[float]) -> str:
    """Return the smallest and the largest of some measured values: `12.4 to 13.1`, or one number where they are equal."""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def number(value: float) -> str:
    """Return a measured value with four significant digits; integers below ten million in full."""
    return f"{value:.0f}" if abs(value) < 1e7 and value == round(value) else f"{value:.4g}"
