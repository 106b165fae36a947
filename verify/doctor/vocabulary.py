"""Patterns by the plain text that leads to them, so that text without it is never looked at."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping

Groups = tuple[tuple[bytes, ...], ...]
"""The plain text that a line needs for a pattern: one text of each group (`patterns.required`)."""
_NUMBER = re.compile(rb"\d[0-9a-f]*")
_DIGITS = b"0123456789"
_HEX = b"abcdef"
LEAST_LOOSE = 2
"""Characters that are left to look for."""
_OF_IDENTIFIERS = re.compile(rb"[a-f]{1,2}")
"""What identifiers are full of, once their digits are left out."""
_WORD_BYTES = bytes(
    ord(chr(code).lower()) if chr(code).isalpha() and code < 128 else code if code == ord("_") else 32
    for code in range(256)
)


class Vocabulary:
    """Patterns by the plain text that leads to them."""

    def __init__(self, groups: Mapping[int, Groups]) -> None:
        self._others = {number: others for number, (_, *others) in groups.items()}
        """Of each pattern: beside its leading texts, a line must hold one of each of these groups."""
        self._texts_of = {number: leading for number, (leading, *_) in groups.items()}
        self._leading: dict[bytes, list[int]] = {}
        for number, (leading, *_) in groups.items():
            for text in leading:
                self._leading.setdefault(text, []).append(number)
        texts = {text for same in groups.values() for group in same for text in group}
        self._words = {text: tuple(w for w in text.translate(_WORD_BYTES).split() if len(w) > 1) for text in texts}
        self._telling = sorted({word for words in self._words.values() for word in words if word.strip(_HEX)})
        """Words that are not made of hexadecimal letters alone, as identifiers are: those may always be there."""

    @property
    def texts(self) -> tuple[bytes, ...]:
        """The leading texts of all patterns."""
        return tuple(self._leading)

    def candidates(self, words: bytes, among: Container[int] | None = None) -> Iterator[tuple[bytes, list[int]]]:
        """The leading texts that may stand in a text of these words, each with the patterns that may match there.

        `among`: the only patterns that are asked for.
        """
        absent = {word for word in self._telling if word not in words}
        possible = {text for text, needed in self._words.items() if absent.isdisjoint(needed)}
        for text, numbers in self._leading.items():
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
        """Whether a line holds all that a pattern needs."""
        return all(any(text in line for text in group) for group in self._others[number])

    def fitting(self, number: int, line: bytes) -> bytes | None:
        """The leading text of a pattern that stands in a line which holds all that the pattern needs; else null."""
        leading = next((text for text in self._texts_of[number] if text in line), None)
        return leading if leading is not None and self.fits(number, line) else None


def words_of(lowered: bytes) -> bytes:
    """The distinct words of a text, by which most patterns are out, without what may be a piece of an identifier."""
    return b" ".join(word for word in set(lowered.translate(_WORD_BYTES).split()) if word.strip(_HEX))


def alike(line: bytes) -> bytes:
    """A line with its numbers and hexadecimal identifiers made equal."""
    return _NUMBER.sub(b"0", line)


def without_digits(text: bytes) -> bytes:
    """The same for plain text: much faster, and identifiers keep their letters."""
    return text.translate(None, _DIGITS)


def whatever_numbers(groups: Groups) -> Groups:
    """What `without_digits` leaves of the plain text that a line needs; empty when next to nothing is left."""
    loose = [tuple(dict.fromkeys(map(without_digits, group))) for group in groups]
    return tuple(
        group
        for group in loose
        if all(len(text) >= LEAST_LOOSE and not _OF_IDENTIFIERS.fullmatch(text) for text in group)
    )
