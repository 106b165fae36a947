"""A prefilter: it finds the patterns that can match a text by their required literals."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping

Groups = tuple[tuple[bytes, ...], ...]
"""The literals that a matching line contains: one of each group (`patterns.required_literals`)."""
_NUMBER = re.compile(rb"\d[0-9a-f]*")
_DIGITS = b"0123456789"
_HEX = b"abcdef"
MIN_WITHOUT_DIGITS = 2
"""Minimum length of a literal once its digits are removed."""
_IN_IDENTIFIERS = re.compile(rb"[a-f]{1,2}")
"""Text that is in most hexadecimal identifiers once their digits are removed."""
_WORD_BYTES = bytes(
    ord(chr(code).lower()) if chr(code).isalpha() and code < 128 else code if code == ord("_") else 32
    for code in range(256)
)


class Prefilter:
    """Patterns, by number, and their required literals. The first group of a pattern is what it is looked up by."""

    def __init__(self, groups: Mapping[int, Groups]) -> None:
        self._others = {number: others for number, (_, *others) in groups.items()}
        """The further groups of each pattern."""
        self._first = {number: first for number, (first, *_) in groups.items()}
        self._by_literal: dict[bytes, list[int]] = {}
        for number, (first, *_) in groups.items():
            for text in first:
                self._by_literal.setdefault(text, []).append(number)
        texts = {text for same in groups.values() for group in same for text in group}
        self._words = {text: tuple(w for w in text.translate(_WORD_BYTES).split() if len(w) > 1) for text in texts}
        self._selective_words = sorted({word for words in self._words.values() for word in words if word.strip(_HEX)})
        """Words that do not consist of hexadecimal letters alone: those may be part of any identifier."""

    @property
    def literals(self) -> tuple[bytes, ...]:
        """Return the literals that patterns are looked up by."""
        return tuple(self._by_literal)

    def candidates(self, words: bytes, among: Container[int] | None = None) -> Iterator[tuple[bytes, list[int]]]:
        """Yield the literals that a text may contain, each with the patterns that may match there.

        Args:
            words: The distinct words of the text, see `distinct_words`.
            among: The patterns to consider; all by default.

        """
        absent = {word for word in self._selective_words if word not in words}
        possible = {text for text, needed in self._words.items() if absent.isdisjoint(needed)}
        for text, numbers in self._by_literal.items():
            if text not in possible:
                continue
            likely = [
                number
                for number in numbers
                if (among is None or number in among)
                and all(not possible.isdisjoint(group) for group in self._others[number])
            ]
            if likely:
                yield text, likely

    def fits(self, number: int, line: bytes) -> bool:
        """Return whether a line contains a literal of each further group of a pattern."""
        return all(any(text in line for text in group) for group in self._others[number])

    def literal_in(self, number: int, line: bytes) -> bytes | None:
        """Return the literal by which a pattern may match in a line; None when it cannot match."""
        literal = next((text for text in self._first[number] if text in line), None)
        return literal if literal is not None and self.fits(number, line) else None


def distinct_words(lowered: bytes) -> bytes:
    """Return the distinct words of a lower-case text, without those that may be part of an identifier."""
    return b" ".join(word for word in set(lowered.translate(_WORD_BYTES).split()) if word.strip(_HEX))


def without_numbers(line: bytes) -> bytes:
    """Replace each number and hexadecimal identifier of a line by 0."""
    return _NUMBER.sub(b"0", line)


def without_digits(text: bytes) -> bytes:
    """Remove the digits of a text: much faster than `without_numbers`, but identifiers keep their letters."""
    return text.translate(None, _DIGITS)


def groups_without_digits(groups: Groups) -> Groups:
    """Return the groups whose literals are still selective without their digits."""
    shortened = [tuple(dict.fromkeys(map(without_digits, group))) for group in groups]
    return tuple(
        group
        for group in shortened
        if all(len(text) >= MIN_WITHOUT_DIGITS and not _IN_IDENTIFIERS.fullmatch(text) for text in group)
    )
