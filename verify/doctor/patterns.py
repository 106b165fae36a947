"""Patterns that a text is searched for, and the index that finds the few lines which each of them must see.

The index holds required literals: text that every matching line contains, and that is found far faster than an expression matches.

A pattern has groups of literals; every matching line contains at least one of each group. Literals are lower case and
contain no character that a log's format may escape.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from itertools import accumulate
from typing import Any

try:
    _parser: Any = import_module("re._parser")
except ImportError:  # Python 3.10
    _parser = import_module("sre_parse")

MIN_LENGTH, MIN_WORDLESS = 2, 3
"""Minimum length of a literal with a word of two letters or more in it, and of one without: shorter text is in every log."""
MAX_ALTERNATIVES = 48
MAX_GROUPS = 4
_PIECE = re.compile(r"[a-z0-9 _.,:;=\[\]()<>/'+*#%@!?&|$~`-]+")
_PART = re.compile(r"\(\?(?:<?[!=]|[a-z]*[:)])|\{[\d,]+\}|\\x..|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_NUMBER = r"\b(?:0x[0-9a-f]+|\d[0-9a-f]*|[a-f]+\d[0-9a-f]{4,})\b|\d+"
"""A number, a hexadecimal identifier, or digits in a word."""
_NUMBER_IN_LINE, _NUMBER_IN_TEXT = re.compile(_NUMBER.encode()), re.compile(_NUMBER, re.ASCII | re.IGNORECASE)
_WORD, _WORDS = re.compile("[a-z_]{2,}"), re.compile(rb"[a-z_]+")
Groups = tuple[tuple[bytes, ...], ...]
"""The literals that a matching line contains: one of each group (`required_literals`)."""
DIGITS = b"0123456789"
MIN_WITHOUT_DIGITS = 2
"""Minimum length of a literal once its digits are removed."""
_IN_IDENTIFIERS = re.compile(rb"[a-f]{1,2}")
"""Text that is in most hexadecimal identifiers once their digits are removed."""
EVERY_LINE: Groups = ((b"",),)
"""The groups of a pattern without literals: it is matched against every line, which is slow."""


def required_literals(pattern: str) -> tuple[tuple[str, ...], ...]:
    """Return the groups of literals of a pattern, the most selective first.

    Every matching line contains at least one literal of each group. The result is empty when no literal is selective.
    Raises re.error.
    """
    groups = set(_groups(_parser.parse(pattern)))
    return tuple(tuple(sorted(group)) for group in sorted(groups, key=_order)[:MAX_GROUPS])


def depends_on_digits(pattern: str) -> bool:
    """Return whether a pattern can match only one of two lines that differ in digits alone."""
    return re.search(r"\d", re.sub(r"\\.|\{[\d,]+\}", "", pattern)) is not None


def line_kind(line: bytes) -> bytes:
    """Return the kind of a line in lower case: 0 stands for each number, because lines of one kind differ in numbers alone."""
    return _NUMBER_IN_LINE.sub(b"0", line)


def text_kind(text: str) -> str:
    """Return the kind of a text, in the case of its letters."""
    return _NUMBER_IN_TEXT.sub("0", text)


def kind_pattern(pattern: str) -> str:
    """Return a pattern that matches the kind of each text that a pattern matches, whose repeats have maxima.

    It matches other kinds as well: a part that may be in a number is optional, and what a text must not contain is ignored.
    """
    parts = _PART.findall(pattern)
    written: list[str] = []
    in_number = is_optional = False
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        if part in ("(?!", "(?<!", "(?<="):
            written.append("(?=|")
        elif part.startswith("{"):
            written.append(re.sub(r"\{(?:\d+,)?", "{0,", part) if is_optional else part)
        elif part.startswith(("(", ")", "|", "?")):
            written.append(part)
            is_optional = False
        else:
            is_optional = _may_be_digit(part) or (in_number and part in "abcdefxABCDEFX")
            in_number = is_optional and not re.fullmatch(part, "g")
            atom = f"(?:{part}|0)" if is_optional and not re.fullmatch(part, "0") else part
            written.append(atom + "?" if is_optional and not following.startswith(("{", "?")) else atom)
    return "".join(written)


@cache
def _may_be_digit(part: str) -> bool:
    """Return whether an atom of a pattern matches a digit."""
    return not re.fullmatch(r"\\[1-9]", part) and any(re.fullmatch(part, digit) for digit in "0123456789")


def _groups(parsed: Iterable[Any]) -> list[frozenset[str]]:
    """Return the groups of a sequence; a match contains a literal of each."""
    groups: list[frozenset[str]] = []
    run = ""
    for name, value in _flat(parsed):
        if name == "LITERAL" and value < 128:  # the case of other letters is not folded alike
            run += chr(value)
        else:
            groups += [*_piece(run), *_nested(name, value)]
            run = ""
    return groups + _piece(run)


def _flat(parsed: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a sequence and of the groups in it that occur once."""
    for operation, value in parsed:
        if str(operation) == "SUBPATTERN":
            yield from _flat(value[3])
        else:
            yield str(operation), value


def _piece(run: str) -> list[frozenset[str]]:
    """Return the longest useful piece of a text as a group; no group when there is none."""
    found = _PIECE.findall(run.lower())
    pieces = [piece for piece in found if len(piece) >= (MIN_LENGTH if _WORD.search(piece) else MIN_WORDLESS)]
    return [frozenset({max(pieces, key=len)})] if pieces else []


def _nested(name: str, value: Any) -> list[frozenset[str]]:
    if name in ("MAX_REPEAT", "MIN_REPEAT"):
        return _groups(value[-1]) if value[0] else []
    if name == "ASSERT":
        return _groups(value[1])
    if name == "BRANCH":
        # Whichever branch matches contains its own best literal, its own second best, and so on.
        branches = [sorted(_groups(branch), key=_order) for branch in value[1]]
        if not all(branches):
            return []
        ranks = range(max(map(len, branches)))
        merged = [frozenset[str]().union(*(b[rank] if rank < len(b) else b[0] for b in branches)) for rank in ranks]
        return [group for group in merged if len(group) <= MAX_ALTERNATIVES]
    return []


def _order(group: frozenset[str]) -> tuple[int, int, list[str]]:
    """Return a sort key: the group whose least selective literal is the most selective comes first."""
    return -min(map(_selectivity, group)), len(group), sorted(group)


def _selectivity(text: str) -> int:
    bare = text.strip(" -_/")
    if len(bare) < 3:
        return len(bare) - 10
    return len(text) + max(map(len, _WORD.findall(text)), default=0)


@dataclass(frozen=True)
class SearchPattern:
    """An expression to search for; the scanner stops after `limit` hits."""

    pattern: str
    near: str | None = None
    limit: int = 3

    @cached_property
    def expression(self) -> re.Pattern[str]:
        """Return the compiled expression."""
        return re.compile(self.pattern)

    @cached_property
    def kind_expression(self) -> re.Pattern[str]:
        """Return the compiled expression of the kinds of its texts."""
        return re.compile(kind_pattern(self.pattern))

    @cached_property
    def near_expression(self) -> re.Pattern[str] | None:
        """Return the compiled expression of a nearby line."""
        return re.compile(self.near) if self.near else None

    @cached_property
    def near_groups(self) -> tuple[tuple[bytes, ...], ...]:
        """Return the literals of a nearby line."""
        return tuple(tuple(text.encode() for text in group) for group in required_literals(self.near or ""))


class PatternIndex:
    """Patterns, and an index of the literals that their lines contain, for any number of texts. Raises re.error.

    The index has literals without digits, because lines that differ in numbers alone are looked up once.
    """

    def __init__(self, patterns: Iterable[SearchPattern]) -> None:
        self.patterns = tuple(patterns)
        self.groups = tuple(map(self.groups_of, self.patterns))
        self.digits = frozenset(n for n, pattern in enumerate(self.patterns) if depends_on_digits(pattern.pattern))
        """Patterns that see every line of a kind."""
        self._by_literal: dict[bytes, list[int]] = {}
        self._usable = [[group for group in map(_without_digits, groups) if group] for groups in self.groups]
        for number, usable in enumerate(self._usable):
            for text in usable[0] if usable else ():
                self._by_literal.setdefault(text, []).append(number)
        self.unindexed = frozenset(number for number, usable in enumerate(self._usable) if not usable)
        """Patterns whose literals are digits."""
        self._words = {literal: max(_WORDS.findall(literal), key=len, default=b"") for literal in self._by_literal}

    @staticmethod
    def groups_of(pattern: SearchPattern) -> Groups:
        """Return the groups of literals of a pattern, `EVERY_LINE` if it has none."""
        groups = required_literals(pattern.pattern)
        return tuple(tuple(text.encode() for text in group) for group in groups) or EVERY_LINE

    def candidates(self, lines: Sequence[bytes]) -> list[list[int]]:
        """Return the patterns that may match each line of a kind; the lines are in lower case.

        Most literals have a word that no line has, and the different words of many lines are a short text.
        """
        bare = [line.translate(None, DIGITS) for line in lines]
        text = b"\n".join(bare)
        starts = [0, *accumulate(len(line) + 1 for line in bare)]
        words = b"\n".join({*_WORDS.findall(text)})
        found = [{*self.unindexed} for _ in lines]
        for literal, numbers in self._by_literal.items():
            position = text.find(literal) if self._words[literal] in words else -1
            while position >= 0:
                line = bisect_right(starts, position) - 1
                found[line].update(numbers)
                position = text.find(literal, starts[line + 1])
        return [
            sorted(number for number in numbers if _has_each(self._usable[number][1:], line))
            for numbers, line in zip(found, bare, strict=True)
        ]

    def fits(self, number: int, line: bytes) -> bool:
        """Return whether a line in lower case contains a literal of each group of a pattern."""
        return _has_each(self.groups[number], line)


def _has_each(groups: Iterable[tuple[bytes, ...]], line: bytes) -> bool:
    """Return whether a line contains a literal of each group."""
    for group in groups:
        for text in group:
            if text in line:
                break
        else:
            return False
    return True


def _without_digits(group: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return the literals of a group without their digits; none if one of them is in most lines then."""
    shortened = tuple(dict.fromkeys(text.translate(None, DIGITS) for text in group))
    is_usable = all(len(text) >= MIN_WITHOUT_DIGITS and not _IN_IDENTIFIERS.fullmatch(text) for text in shortened)
    return shortened if is_usable else ()
