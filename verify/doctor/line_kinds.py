"""Lines of a text by kind: of lines that differ in numbers alone, most patterns see one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from verify.doctor.prefilter import without_digits, without_numbers
from verify.doctor.search_patterns import PatternIndex
from verify.doctor.text_decoding import JSON_BYTES, LINE_BYTES

LINE_PIECES = 16
"""Maximum number of places in one line that are examined for one literal."""
KINDS_LIMIT = 200_000
"""Maximum number of kinds of lines that are remembered."""


@dataclass(frozen=True)
class Excerpt:
    """Pieces of a block in lower case; where each begins here (`starts`) and in the block (`origins`)."""

    text: bytes
    starts: list[int]
    origins: list[int]

    def piece(self, position: int) -> int:
        return bisect_right(self.starts, position) - 1

    def origin(self, position: int) -> int:
        piece = self.piece(position)
        return self.origins[piece] + position - self.starts[piece]


Kinds = dict[int, tuple[int, ...]]
"""Kinds of lines seen so far, by hash, and the patterns that need to see every line of the kind."""
UNSEEN, LEARNING = (-1,), (-2,)
"""Marks of a kind that is new, and of one that is new in this block."""


class LineKinds:
    """The lines of a block by kind: lines that differ in numbers alone are of one kind.

    A line is first compared without its digits, which is fast, and then without its identifiers.
    """

    def __init__(self, lowered: bytes, begin: int, kinds: Kinds) -> None:
        if len(kinds) > KINDS_LIMIT:
            kinds.clear()
        self._kinds = kinds
        self._marks: list[tuple[int, int]] = []
        """The kinds of the lines of `new`."""
        self.repeated: list[tuple[int, bytes, tuple[int, ...]]] = []
        """Position, line and patterns of each line that patterns need to see although its kind is known."""
        self._waiting: list[tuple[int, bytes, int]] = []
        """The lines of kinds that are new in this block."""
        lines, starts, origins, length, position = [], [], [], 0, begin
        without: list[bytes] = []
        for line, bare in zip(lowered.split(b"\n"), without_digits(lowered).split(b"\n"), strict=True):
            mark = hash(bare)
            needed = kinds.get(mark, UNSEEN)
            if needed is UNSEEN:
                first, mark = mark, hash(without_numbers(line))
                needed = kinds.get(mark, UNSEEN)
            if needed is UNSEEN:
                kinds[first] = kinds[mark] = LEARNING
                self._marks.append((first, mark))
                without.append(bare)
                lines.append(line)
                starts.append(length)
                origins.append(position)
                length += len(line) + 1
            if needed in (UNSEEN, LEARNING):
                self._waiting.append((position, line, mark))
            elif needed:
                self.repeated.append((position, line, needed))
            position += len(line) + 1
        self.new = Excerpt(b"\n".join(lines), starts, origins)
        bare_starts = accumulate((len(bare) + 1 for bare in without), initial=0)
        self.new_without_digits = Excerpt(b"\n".join(without), list(bare_starts), [])

    def learn(self, index: PatternIndex, words: bytes) -> None:
        """Record which patterns need to see every line of the new kinds; `words`: the words of these kinds."""
        needed: dict[int, set[int]] = {}
        likely = {number for _, numbers in index.exact.candidates(words) for number in numbers}
        text = self.new_without_digits.text
        for literal, numbers in index.by_words.candidates(words, among=likely) if likely else ():
            for low, high in line_ranges(text, literal):
                line = text[low:high]
                piece = self.new_without_digits.piece(low)
                needed.setdefault(piece, set()).update(n for n in numbers if index.by_words.fits(n, line))
        for piece, marks in enumerate(self._marks):
            self._kinds.update(dict.fromkeys(marks, tuple(sorted(needed.get(piece, ())))))
        self.repeated += [(start, line, self._kinds[mark]) for start, line, mark in self._waiting if self._kinds[mark]]
        self.repeated.sort()


def line_ranges(text: bytes, literal: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the lines that contain a literal; of a very long line only the part around it."""
    position, pieces, last = 0, 0, -1
    while (position := text.find(literal, position)) >= 0:
        start, stop = text.rfind(b"\n", 0, position) + 1, text.find(b"\n", position)
        stop = len(text) if stop < 0 else stop
        pieces, last = pieces + 1 if start == last else 1, start
        if text.startswith(b"{", start) and stop - start <= JSON_BYTES:
            low, high = start, stop
        else:
            low, high = max(start, position - LINE_BYTES // 2), min(stop, position + LINE_BYTES // 2)
        if pieces <= LINE_PIECES:
            yield low, high
        position = max(high if pieces < LINE_PIECES else stop, position + 1)
