"""Shell commands on a page, broken over lines so that a copy still runs."""

from __future__ import annotations

from collections.abc import Iterable

from provision.report.layout import COLUMNS, clean, split_at, width


def command(text: str, *, indent: str = "  ", columns: int = COLUMNS) -> list[str]:
    """Return a command as lines that can be copied and run.

    Lines break with a backslash between words outside quotes. A word that is too long for a line is cut and continues in
    the first column, where the shell joins the parts.
    """
    lines: list[str] = []
    line = indent
    for word in words(clean(text)):
        gap = "" if line == indent else " "
        if width(line) + len(gap) + width(word) + 2 <= columns:
            line += gap + word
            continue
        if gap:
            lines.append(line + " \\")
            line = indent + "  "
        pieces = list(_cut(word, columns - width(line) - 4, columns - 4))
        lines += [(line if number == 0 else "") + piece for number, piece in enumerate(pieces[:-1])]
        line = (line if len(pieces) == 1 else "") + pieces[-1]
    return [*lines, line]


def words(text: str) -> list[str]:
    """Split a command at unquoted blanks; quotes nest anew inside `$(...)`."""
    found = [""]
    for char, inside in zip(text, _insides(text), strict=False):
        if char == " " and inside in ("", "("):
            found.append("")
        else:
            found[-1] += char
    return [word for word in found if word]


def _insides(text: str) -> list[str]:
    """Return the context before each character, and after the last: none, a quote, or `(` for a command substitution."""
    open_marks: list[str] = []
    found = [""]
    previous = ""
    for char in text:
        _step(open_marks, found[-1], previous, char)
        previous = char
        found.append(open_marks[-1] if open_marks else "")
    return found


def _step(open_marks: list[str], inside: str, previous: str, char: str) -> None:
    """Update the open quotes and command substitutions by one character."""
    closes = {"'": "'", '"': '"', "(": ")"}
    if inside and char == closes[inside]:
        open_marks.pop()
    elif inside == "'":
        return
    elif char == "(" and previous == "$":
        open_marks.append("(")
    elif char == '"' or (char == "'" and inside != '"'):
        open_marks.append(char)


def _cut(word: str, first: int, others: int) -> Iterable[str]:
    """Yield pieces of a word, each but the last ending in a backslash; single quotes are closed and reopened."""
    columns_left, rest = first, word
    while width(rest) > columns_left:
        head, rest = split_at(rest, columns_left)
        while len(head) > 1 and head.endswith("\\"):  # a backslash before the line break would escape it
            head, rest = head[:-1], "\\" + rest
        if _insides(head)[-1] == "'":
            yield head + "'\\"
            rest = "'" + rest
        else:
            yield head + "\\"
        columns_left = others
    yield rest
