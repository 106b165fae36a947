"""Reads any text once, as a stream, and keeps the first lines that patterns match.

Most of a log matches nothing. Each block of it is therefore first reduced to its distinct words; only patterns whose
plain text is made of those words are looked for in it, and only lines that hold the plain text meet the expression.
Of lines that differ in numbers alone, most patterns see one.
Memory and the length of what an expression sees are bounded, whatever the text is.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from verify.doctor.catalog import CatalogError
from verify.doctor.patterns import bounded, minds_digits, required
from verify.doctor.reading import BLOCK_BYTES, JSON_BYTES, LINE_BYTES, Readable, cleaned, decoded, plain
from verify.doctor.vocabulary import Vocabulary, alike, whatever_numbers, without_digits, words_of

NEAR_LINES = 20
LINE_PIECES = 16
"""Places of one line that are looked at for one text."""
EVERYWHERE = ((b"",),)
"""Stands for the plain text of a pattern that has none: it meets every line, which is slow."""
KINDS_LIMIT = 200_000
"""Kinds of lines that are remembered."""
LONG_BYTES = 4 * BLOCK_BYTES
"""Text without line ends is taken in pieces from this size on."""
START_BYTES = 1 << 15
"""Of a text's beginning, and of its end, that are kept as they are."""
TEXT_LIMIT = 400
"""Characters of a line that evidence shows."""


@dataclass(frozen=True, order=True)
class Hit:
    """A line that matched. Ordered by time, as far as a text tells it: by its place."""

    source: int
    """Which of several texts, from 0."""
    line: int
    part: int
    """Within a line that holds several, as JSON logs do."""
    file: str = field(compare=False)
    text: str = field(compare=False)


@dataclass(frozen=True)
class Probe:
    """A pattern to look for; `limit` hits are enough."""

    pattern: str
    near: str | None = None
    limit: int = 3

    @cached_property
    def expression(self) -> re.Pattern[str]:
        return re.compile(bounded(self.pattern))

    @cached_property
    def near_expression(self) -> re.Pattern[str] | None:
        return re.compile(bounded(self.near)) if self.near else None

    @cached_property
    def near_groups(self) -> tuple[tuple[bytes, ...], ...]:
        """The plain text that a neighbour needs."""
        return tuple(tuple(text.encode() for text in group) for group in required(self.near or ""))


class Index:
    """Patterns made ready, for any number of texts. Raises CatalogError."""

    def __init__(self, probes: Iterable[Probe]) -> None:
        self.probes = tuple(probes)
        groups = {number: self.groups(probe) for number, probe in enumerate(self.probes)}
        digits = {number for number, probe in enumerate(self.probes) if minds_digits(probe.pattern)}
        near = {number for number, probe in enumerate(self.probes) if probe.near}
        loose = {number: whatever_numbers(groups[number]) for number in digits | near}
        self._digits = digits
        self.kinds = Vocabulary({number: group for number, group in groups.items() if number not in digits})
        """Has seen enough, as a rule, with one line of each kind."""
        self.loose = Vocabulary({number: group for number, group in loose.items() if group})
        """May have to see each line, for its digits or its neighbours, of the kinds that hold its words."""
        self.exact = Vocabulary({number: groups[number] for number, group in loose.items() if group})
        """What such a line must hold, digits and all."""
        self.everywhere = Vocabulary({number: groups[number] for number, group in loose.items() if not group})
        """Has no words: whole blocks are searched for its digits."""

    def minds(self, number: int, found: Scan) -> bool:
        """Whether a pattern must see each line by now."""
        return number in self._digits or number in found.alone

    @staticmethod
    def groups(probe: Probe) -> tuple[tuple[bytes, ...], ...]:
        """The plain text that a line needs for a pattern, as `required` gives it."""
        try:
            required(probe.near or "")
            groups = required(probe.pattern)
        except re.error as error:
            raise CatalogError(f"`{error.pattern!s}` is no regular expression: {error.msg}") from None
        return tuple(tuple(text.encode() for text in group) for group in groups) or EVERYWHERE


@dataclass
class Scan:
    """What was found: hits by pattern, in order; and how much was read."""

    hits: list[list[Hit]]
    alone: set[int] = field(default_factory=set)
    """Patterns that matched a line with the wrong neighbours: the next of its kind may have the right ones."""
    full: set[int] = field(default_factory=set)
    """Patterns that have hits enough: all that stand first, since blocks come in order."""
    lines: int = 0
    size: int = 0
    name: str = ""
    start: bytes = b""
    """The text itself, as far as it is short."""
    end: bytes = b""
    """Its last part, where `start` does not hold all of it."""

    def keep(self, fresh: bytes) -> None:
        """Keep a block's part in the beginning and the end of the text."""
        phase = START_BYTES - len(self.start)
        self.start += fresh[:phase]
        self.end = (self.end + fresh[phase:])[-START_BYTES:]

    def settle(self, probes: Sequence[Probe]) -> None:
        """Keep the first hits, when a block has been looked at as a whole."""
        for number, (hits, probe) in enumerate(zip(self.hits, probes, strict=True)):
            if hits and number not in self.full:
                hits.sort()
                del hits[probe.limit :]
                if len(hits) == probe.limit:
                    self.full.add(number)


def scan(stream: Readable, index: Index, *, name: str, source: int = 0) -> Scan:
    """Look for all patterns of an index in one pass. Raises OSError when the stream cannot be read."""
    found = Scan([[] for _ in index.probes], name=name)
    buffer, begin, number, tail = b"", 0, 1, b""
    blocks = decoded(stream)
    kinds: Kinds = {}
    ended = False
    while not ended:
        block = next(blocks, b"")
        ended = not block
        found.size += len(block)
        fresh, tail = (tail, b"") if ended else _whole(tail + block)
        fresh = cleaned(fresh)
        found.keep(fresh)
        buffer += fresh
        end = len(buffer) if ended else _back(buffer, len(buffer))
        if end <= begin:
            continue
        window = _Window(buffer, number, name, source)
        lowered = buffer.lower()
        lines = _Lines(lowered[begin:end], begin, kinds)
        words = words_of(lines.bare.text)
        _look(window, lines.fresh, index.kinds, index, found, words=words)
        lines.learn(index, words)
        _look_again(window, lines, index, found)
        if index.everywhere.texts:
            whole = _View(lowered[begin:end], [0], [begin])
            _look(window, whole, index.everywhere, index, found, words=whole.text)
        found.settle(index.probes)
        keep = _back(buffer, end)
        number += buffer.count(b"\n", 0, keep)
        buffer, begin = buffer[keep:], end - keep
    found.lines = number - 1 + buffer.count(b"\n") + (not buffer.endswith(b"\n") and bool(buffer))
    return found


def scan_text(text: str, index: Index, *, name: str, source: int = 0) -> Scan:
    """The same for text that is at hand."""
    return scan(io.BytesIO(text.encode("utf-8", "replace")), index, name=name, source=source)


@dataclass(frozen=True)
class _Window:
    """A block as it stands, with the lines before and after the part that is looked at."""

    content: bytes
    first_line: int
    name: str
    source: int

    def has_near(self, position: int, probe: Probe) -> bool:
        """Whether a line around a place matches what a pattern wants beside it."""
        near = probe.near_expression
        if near is None:
            return True
        low = high = position
        for _ in range(NEAR_LINES + 1):
            low = max(self.content.rfind(b"\n", 0, low), 0)
            high = self.content.find(b"\n", high) + 1 or len(self.content)
        block = self.content[low:high]
        lowered = block.lower()
        # A JSON record is put into other words before it is searched: how it stands here says nothing.
        if b"{" not in block and not all(any(text in lowered for text in group) for group in probe.near_groups):
            return False
        return any(near.search(text) for line in block.split(b"\n") for text in plain(line[:LINE_BYTES]))


@dataclass(frozen=True)
class _View:
    """What is looked at: pieces of a window, lower case, and where each began there."""

    text: bytes
    starts: list[int]
    origins: list[int]

    def piece(self, place: int) -> int:
        return bisect_right(self.starts, place) - 1

    def origin(self, place: int) -> int:
        piece = self.piece(place)
        return self.origins[piece] + place - self.starts[piece]


Kinds = dict[int, tuple[int, ...]]
"""Kinds of lines seen so far, by hash: the patterns that such a line may match for its digits or neighbours."""
UNSEEN, LEARNING = (-1,), (-2,)
"""Stand for the patterns of a kind that is new, and of one that is new in this block."""


class _Lines:
    """The lines of a block by kind: a kind is new once, and not again when only numbers differ.

    First numbers are left out, which is fast; a line that is still new then is compared with identifiers made equal.
    """

    def __init__(self, lowered: bytes, begin: int, kinds: Kinds) -> None:
        if len(kinds) > KINDS_LIMIT:
            kinds.clear()
        self._kinds = kinds
        self._marks: list[tuple[int, int]] = []
        """Of the lines of `fresh`: their kinds."""
        self.again: list[tuple[int, bytes, tuple[int, ...]]] = []
        """Where a line that patterns ask for begins, the line, the patterns."""
        self._waiting: list[tuple[int, bytes, int]] = []
        """The lines of kinds that are new in this block."""
        lines, starts, origins, length, place = [], [], [], 0, begin
        without: list[bytes] = []
        for line, bare in zip(lowered.split(b"\n"), without_digits(lowered).split(b"\n"), strict=True):
            mark = hash(bare)
            asked = kinds.get(mark, UNSEEN)
            if asked is UNSEEN:
                first, mark = mark, hash(alike(line))
                asked = kinds.get(mark, UNSEEN)
            if asked is UNSEEN:
                kinds[first] = kinds[mark] = LEARNING
                self._marks.append((first, mark))
                without.append(bare)
                lines.append(line)
                starts.append(length)
                origins.append(place)
                length += len(line) + 1
            if asked in (UNSEEN, LEARNING):
                self._waiting.append((place, line, mark))
            elif asked:
                self.again.append((place, line, asked))
            place += len(line) + 1
        self.fresh = _View(b"\n".join(lines), starts, origins)
        self.bare = _View(b"\n".join(without), list(accumulate(map(_with_end, without), initial=0)), [])
        """The same without digits: its words hold those of `fresh`, which digits part."""

    def learn(self, index: Index, words: bytes) -> None:
        """Note for the new kinds, which have these words, the patterns that must see each line of them."""
        asked: dict[int, set[int]] = {}
        likely = {number for _, numbers in index.exact.candidates(words) for number in numbers}
        for leading, numbers in index.loose.candidates(words, among=likely) if likely else ():
            for low, high in _places(self.bare.text, leading):
                line = self.bare.text[low:high]
                asked.setdefault(self.bare.piece(low), set()).update(n for n in numbers if index.loose.fits(n, line))
        for piece, marks in enumerate(self._marks):
            self._kinds.update(dict.fromkeys(marks, tuple(sorted(asked.get(piece, ())))))
        self.again += [(place, line, self._kinds[mark]) for place, line, mark in self._waiting if self._kinds[mark]]
        self.again.sort()


def _look_again(window: _Window, lines: _Lines, index: Index, found: Scan) -> None:
    """Try the patterns that must see each line on the lines that they ask for."""
    left: dict[int, int] = {}
    wanted: dict[tuple[int, ...], list[int]] = {}
    alone = len(found.alone)
    for origin, line, numbers in lines.again:
        if len(found.alone) != alone:
            alone = len(found.alone)
            wanted.clear()
        if numbers not in wanted:
            wanted[numbers] = [n for n in numbers if n not in found.full and index.minds(n, found)]
        for number in wanted[numbers]:
            if left.get(number) == 0:
                continue
            leading = index.exact.fitting(number, line)
            for low, high in _places(line, leading) if leading else ():
                parts = plain(window.content[origin + low : origin + high])
                outcome = _match(window, index.probes[number], parts, origin + low, found.hits[number])
                if outcome is None:
                    found.alone.add(number)
                left[number] = left.get(number, index.probes[number].limit) - bool(outcome)


def _with_end(line: bytes) -> int:
    return len(line) + 1


def _look(window: _Window, view: _View, vocabulary: Vocabulary, index: Index, found: Scan, *, words: bytes) -> None:
    """Find the lines that hold a leading text, and try the patterns behind it there."""
    done: set[tuple[int, int]] = set()
    for leading, numbers in vocabulary.candidates(words):
        left = {number: index.probes[number].limit for number in numbers if number not in found.full}
        for low, high in _places(view.text, leading) if left else ():
            line = view.text[low:high]
            fitting = [number for number in left if (number, low) not in done and vocabulary.fits(number, line)]
            if not fitting:
                continue
            done.update((number, low) for number in fitting)
            origin = view.origin(low)
            parts = plain(window.content[origin : origin + high - low])
            for number in fitting:
                outcome = _match(window, index.probes[number], parts, origin, found.hits[number])
                if outcome is None:
                    found.alone.add(number)
                left[number] -= bool(outcome)
            left = {number: count for number, count in left.items() if count}
            if not left:
                break


def _places(text: bytes, leading: bytes) -> Iterator[tuple[int, int]]:
    """Where the lines, or pieces of very long ones, that hold a text begin and end."""
    position, pieces, last = 0, 0, -1
    while (position := text.find(leading, position)) >= 0:
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


def _match(window: _Window, probe: Probe, parts: list[str], position: int, hits: list[Hit]) -> bool | None:
    """Whether a pattern matches, and then a hit more; null where only its neighbours are missing."""
    for part, text in enumerate(parts):
        match = probe.expression.search(text)
        if match is None:
            continue
        if not window.has_near(position, probe):
            return None
        line = window.first_line + window.content.count(b"\n", 0, position)
        hit = Hit(window.source, line, part, window.name, _shown(text, match.start()))
        if hit not in hits:
            hits.append(hit)
        return True
    return False


def _shown(text: str, place: int) -> str:
    low = max(0, place - TEXT_LIMIT // 2) if len(text) > TEXT_LIMIT else 0
    return text[low : low + TEXT_LIMIT].rstrip()


def _whole(block: bytes) -> tuple[bytes, bytes]:
    """Up to the last line end, and the rest; everything when there is none for long."""
    cut = block.rfind(b"\n") + 1
    return (block[:cut], block[cut:]) if cut or len(block) < LONG_BYTES else (block, b"")


def _back(buffer: bytes, position: int) -> int:
    """Where the last NEAR_LINES lines before a position begin; less where lines are very long."""
    place = max(position - 1, 0)
    for _ in range(NEAR_LINES):
        place = buffer.rfind(b"\n", 0, place)
        if place < 0:
            break
    return max(place + 1, position - LONG_BYTES // 4, 0)
