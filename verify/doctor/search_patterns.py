"""Patterns that a text is searched for, and the prefilters that find the few lines which each of them must see."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

from verify.doctor.cause import CatalogError
from verify.doctor.patterns import bound_repeats, depends_on_digits, required_literals
from verify.doctor.prefilter import Prefilter, groups_without_digits

EVERY_LINE = ((b"",),)
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
    """Patterns and their prefilters, for any number of texts. Raises CatalogError."""

    def __init__(self, patterns: Iterable[SearchPattern]) -> None:
        self.patterns = tuple(patterns)
        groups = {number: self.groups(pattern) for number, pattern in enumerate(self.patterns)}
        digits = {number for number, pattern in enumerate(self.patterns) if depends_on_digits(pattern.pattern)}
        near = {number for number, pattern in enumerate(self.patterns) if pattern.near}
        shortened = {number: groups_without_digits(groups[number]) for number in digits | near}
        self._digits = digits
        self.by_kind = Prefilter({number: group for number, group in groups.items() if number not in digits})
        """Patterns that usually need to see only one line of each kind."""
        self.by_words = Prefilter({number: group for number, group in shortened.items() if group})
        """Patterns that may need to see each line of a kind, by their literals without digits."""
        self.exact = Prefilter({number: groups[number] for number, group in shortened.items() if group})
        """The same patterns by their whole literals."""
        self.digits_only = Prefilter({number: groups[number] for number, group in shortened.items() if not group})
        """Patterns whose literals are digits: whole blocks are searched for them."""

    def needs_every_line(self, number: int, near_missing: Collection[int]) -> bool:
        """Return whether one line of each kind is not enough for a pattern.

        Args:
            number: The pattern.
            near_missing: Patterns that matched a line without a matching nearby line: another line of its kind may have one.
        """
        return number in self._digits or number in near_missing

    @staticmethod
    def groups(pattern: SearchPattern) -> tuple[tuple[bytes, ...], ...]:
        """Return the groups of literals of a pattern, `EVERY_LINE` if it has none."""
        try:
            required_literals(pattern.near or "")
            groups = required_literals(pattern.pattern)
        except re.error as error:
            raise CatalogError(f"`{error.pattern!s}` is not a regular expression: {error.msg}") from None
        return tuple(tuple(text.encode() for text in group) for group in groups) or EVERY_LINE
