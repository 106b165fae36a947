"""Patterns that a text is searched for, and the index that finds the few lines which each of them must see."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from verify.doctor.cause import CatalogError
from verify.doctor.patterns import bound_repeats, depends_on_digits, required_literals

Groups = tuple[tuple[bytes, ...], ...]
"""The literals that a matching line contains: one of each group (`patterns.required_literals`)."""
DIGITS = b"0123456789"
MIN_WITHOUT_DIGITS = 2
"""Minimum length of a literal once its digits are removed."""
_HEX = b"abcdef"
_IN_IDENTIFIERS = re.compile(rb"[a-f]{1,2}")
"""Text that is in most hexadecimal identifiers once their digits are removed."""
_WORD_BYTES = bytes(code if chr(code) in "_abcdefghijklmnopqrstuvwxyz" else 32 for code in range(256))
EVERY_LINE: Groups = ((b"",),)
"""The groups of a pattern without literals: it is matched against every line, which is slow."""


@dataclass(frozen=True)
class SearchPattern:
    """An expression to search for; the scanner stops after `limit` hits."""

    pattern: str
    near: str | None = None
    limit: int = 3

    @cached_property
    def expression(self) -> re.Pattern[str]:
        """Return the compiled expression, with bounded repeats."""
        return re.compile(bound_repeats(self.pattern))

    @cached_property
    def near_expression(self) -> re.Pattern[str] | None:
        """Return the compiled expression of a nearby line."""
        return re.compile(bound_repeats(self.near)) if self.near else None

    @cached_property
    def near_groups(self) -> tuple[tuple[bytes, ...], ...]:
        """Return the literals of a nearby line."""
        return tuple(tuple(text.encode() for text in group) for group in required_literals(self.near or ""))


class PatternIndex:
    """Patterns, and an index of the literals that their lines contain, for any number of texts. Raises CatalogError.

    The index has literals without digits, because lines that differ in numbers alone are looked up once.
    """

    def __init__(self, patterns: Iterable[SearchPattern]) -> None:
        self.patterns = tuple(patterns)
        self.groups = tuple(map(self.groups_of, self.patterns))
        self.digits = frozenset(n for n, pattern in enumerate(self.patterns) if depends_on_digits(pattern.pattern))
        """Patterns that see every line of a kind."""
        self._by_literal: dict[bytes, list[int]] = {}
        unindexed = []
        for number, groups in enumerate(self.groups):
            usable = [group for group in map(_without_digits, groups) if group]
            for text in usable[0] if usable else ():
                self._by_literal.setdefault(text, []).append(number)
            if not usable:
                unindexed.append(number)
        self.unindexed = frozenset(unindexed)
        """Patterns whose literals are digits."""
        self._words = {text: [word for word in _words(text) if len(word) > 1] for text in self._by_literal}
        self._selective_words = {word for words in self._words.values() for word in words if word.strip(_HEX)}

    @staticmethod
    def groups_of(pattern: SearchPattern) -> Groups:
        """Return the groups of literals of a pattern, `EVERY_LINE` if it has none."""
        try:
            required_literals(pattern.near or "")
            groups = required_literals(pattern.pattern)
        except re.error as error:
            raise CatalogError(f"`{error.pattern!s}` is not a regular expression: {error.msg}") from None
        return tuple(tuple(text.encode() for text in group) for group in groups) or EVERY_LINE

    def candidates(self, lines: Sequence[bytes]) -> list[list[int]]:
        """Return the patterns that may match each line of a kind; the lines are in lower case.

        Most literals are excluded for all lines at once: a word of theirs is in none.
        """
        text = b"\n".join(lines).translate(None, DIGITS)
        starts = [0, *accumulate(len(line.translate(None, DIGITS)) + 1 for line in lines)]
        # Words of hexadecimal letters may be a part of any identifier.
        words = b" ".join(word for word in set(_words(text)) if word.strip(_HEX))
        absent = {word for word in self._selective_words if word not in words}
        found = [{*self.unindexed} for _ in lines]
        for literal, numbers in self._by_literal.items():
            position = text.find(literal) if absent.isdisjoint(self._words[literal]) else -1
            while position >= 0:
                line = bisect_right(starts, position) - 1
                found[line].update(numbers)
                position = text.find(literal, starts[line + 1])
        return [sorted(numbers) for numbers in found]

    def fits(self, number: int, line: bytes) -> bool:
        """Return whether a line in lower case contains a literal of each group of a pattern."""
        for group in self.groups[number]:
            for text in group:
                if text in line:
                    break
            else:
                return False
        return True


def _words(text: bytes) -> list[bytes]:
    return text.translate(_WORD_BYTES).split()


def _without_digits(group: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return the literals of a group without their digits; none if one of them is in most lines then."""
    shortened = tuple(dict.fromkeys(text.translate(None, DIGITS) for text in group))
    is_usable = all(len(text) >= MIN_WITHOUT_DIGITS and not _IN_IDENTIFIERS.fullmatch(text) for text in shortened)
    return shortened if is_usable else ()
