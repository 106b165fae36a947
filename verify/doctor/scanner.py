"""A scanner that reads any text once, as a stream, and keeps the first lines that match each pattern.

Most lines of a log match nothing. The scanner therefore reduces each block to its distinct words first, looks only for
patterns whose literals consist of these words, and matches an expression only against lines that contain its literals.
Of lines that differ in numbers alone, most patterns see one. Memory, and the length of text that an expression sees,
are bounded for any text.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from verify.doctor.cause import CatalogError
from verify.doctor.patterns import bound_repeats, depends_on_digits, required_literals
from verify.doctor.prefilter import Prefilter, distinct_words, groups_without_digits, without_digits, without_numbers
from verify.doctor.text_decoding import (
    BLOCK_BYTES,
    JSON_BYTES,
    LINE_BYTES,
    Readable,
    clean_block,
    decode_blocks,
    plain_lines,
)

NEAR_LINES = 20
LINE_PIECES = 16
"""Maximum number of places in one line that are examined for one literal."""
EVERY_LINE = ((b"",),)
"""The groups of a pattern without literals: it is matched against every line, which is slow."""
KINDS_LIMIT = 200_000
"""Maximum number of kinds of lines that are remembered."""
LONG_BYTES = 4 * BLOCK_BYTES
"""Text without line ends is split from this size on."""
START_BYTES = 1 << 15
"""Size of a text's beginning, and of its end, that a result keeps."""
TEXT_LIMIT = 400
"""Maximum number of characters of a line in a hit."""


@dataclass(frozen=True, order=True)
class Hit:
    """A line that matched a pattern. Hits are ordered by place, which stands for time."""

    source: int
    """The number of its text, from 0."""
    line: int
    """The number of the line, from 1."""
    part: int
    """The number of the text within the line: a JSON record holds several."""
    file: str = field(compare=False)
    text: str = field(compare=False)


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

    def needs_every_line(self, number: int, found: ScanResult) -> bool:
        """Return whether one line of each kind is not enough for a pattern."""
        return number in self._digits or number in found.near_missing

    @staticmethod
    def groups(pattern: SearchPattern) -> tuple[tuple[bytes, ...], ...]:
        """Return the groups of literals of a pattern, `EVERY_LINE` if it has none."""
        try:
            required_literals(pattern.near or "")
            groups = required_literals(pattern.pattern)
        except re.error as error:
            raise CatalogError(f"`{error.pattern!s}` is not a regular expression: {error.msg}") from None
        return tuple(tuple(text.encode() for text in group) for group in groups) or EVERY_LINE


@dataclass
class ScanResult:
    """The hits in one text by pattern, and what is known about the text."""

    hits: list[list[Hit]]
    near_missing: set[int] = field(default_factory=set)
    """Patterns that matched a line without a matching nearby line: another line of its kind may have one."""
    full: set[int] = field(default_factory=set)
    """Patterns that have all their hits."""
    lines: int = 0
    size: int = 0
    name: str = ""
    start: bytes = b""
    """The first `START_BYTES` of the text."""
    end: bytes = b""
    """Its last `START_BYTES`, if `start` does not hold all of it."""

    def add_text(self, fresh: bytes) -> None:
        """Add a block to `start` and `end`."""
        left = START_BYTES - len(self.start)
        self.start += fresh[:left]
        self.end = (self.end + fresh[left:])[-START_BYTES:]

    def trim_hits(self, patterns: Sequence[SearchPattern]) -> None:
        """Keep the first hits of each pattern. Called when a whole block has been examined."""
        for number, (hits, pattern) in enumerate(zip(self.hits, patterns, strict=True)):
            if hits and number not in self.full:
                hits.sort()
                del hits[pattern.limit :]
                if len(hits) == pattern.limit:
                    self.full.add(number)


def scan(stream: Readable, index: PatternIndex, *, name: str, source: int = 0) -> ScanResult:
    """Search a text for all patterns of an index in one pass.

    Args:
        stream: The text.
        index: The patterns.
        name: The name of the text, for its hits.
        source: The number of the text, for its hits.

    Raises:
        OSError: The stream cannot be read.

    """
    found = ScanResult([[] for _ in index.patterns], name=name)
    buffer, begin, number, tail = b"", 0, 1, b""
    blocks = decode_blocks(stream)
    kinds: Kinds = {}
    ended = False
    while not ended:
        raw = next(blocks, b"")
        ended = not raw
        found.size += len(raw)
        fresh, tail = (tail, b"") if ended else _split_at_line_end(tail + raw)
        fresh = clean_block(fresh)
        found.add_text(fresh)
        buffer += fresh
        end = len(buffer) if ended else _context_start(buffer, len(buffer))
        if end <= begin:
            continue
        block = _Block(buffer, number, name, source)
        lowered = buffer.lower()
        lines = _LineKinds(lowered[begin:end], begin, kinds)
        words = distinct_words(lines.new_without_digits.text)
        _search(block, lines.new, index.by_kind, index, found, words=words)
        lines.learn(index, words)
        _search_every_line(block, lines, index, found)
        if index.digits_only.literals:
            whole = _Excerpt(lowered[begin:end], [0], [begin])
            _search(block, whole, index.digits_only, index, found, words=whole.text)
        found.trim_hits(index.patterns)
        keep = _context_start(buffer, end)
        number += buffer.count(b"\n", 0, keep)
        buffer, begin = buffer[keep:], end - keep
    found.lines = number - 1 + buffer.count(b"\n") + (not buffer.endswith(b"\n") and bool(buffer))
    return found


def scan_text(text: str, index: PatternIndex, *, name: str, source: int = 0) -> ScanResult:
    """Search a string for all patterns of an index, see `scan`."""
    return scan(io.BytesIO(text.encode("utf-8", "replace")), index, name=name, source=source)


@dataclass(frozen=True)
class _Block:
    """A block of the text, with the lines before and after the part that is examined."""

    content: bytes
    first_line: int
    name: str
    source: int

    def has_near(self, position: int, pattern: SearchPattern) -> bool:
        """Return whether a line near a position matches the pattern's `near`."""
        near = pattern.near_expression
        if near is None:
            return True
        low = high = position
        for _ in range(NEAR_LINES + 1):
            low = max(self.content.rfind(b"\n", 0, low), 0)
            high = self.content.find(b"\n", high) + 1 or len(self.content)
        content = self.content[low:high]
        lowered = content.lower()
        # The strings of a JSON record are escaped here, so the literals may be missing.
        if b"{" not in content and not all(any(text in lowered for text in group) for group in pattern.near_groups):
            return False
        return any(near.search(text) for line in content.split(b"\n") for text in plain_lines(line[:LINE_BYTES]))


@dataclass(frozen=True)
class _Excerpt:
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


class _LineKinds:
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
        self.new = _Excerpt(b"\n".join(lines), starts, origins)
        bare_starts = accumulate((len(bare) + 1 for bare in without), initial=0)
        self.new_without_digits = _Excerpt(b"\n".join(without), list(bare_starts), [])

    def learn(self, index: PatternIndex, words: bytes) -> None:
        """Record which patterns need to see every line of the new kinds; `words`: the words of these kinds."""
        needed: dict[int, set[int]] = {}
        likely = {number for _, numbers in index.exact.candidates(words) for number in numbers}
        text = self.new_without_digits.text
        for literal, numbers in index.by_words.candidates(words, among=likely) if likely else ():
            for low, high in _line_ranges(text, literal):
                line = text[low:high]
                piece = self.new_without_digits.piece(low)
                needed.setdefault(piece, set()).update(n for n in numbers if index.by_words.fits(n, line))
        for piece, marks in enumerate(self._marks):
            self._kinds.update(dict.fromkeys(marks, tuple(sorted(needed.get(piece, ())))))
        self.repeated += [(start, line, self._kinds[mark]) for start, line, mark in self._waiting if self._kinds[mark]]
        self.repeated.sort()


def _search_every_line(block: _Block, lines: _LineKinds, index: PatternIndex, found: ScanResult) -> None:
    """Match the patterns that need to see every line of a kind."""
    left: dict[int, int] = {}
    wanted: dict[tuple[int, ...], list[int]] = {}
    missing = len(found.near_missing)
    for origin, line, numbers in lines.repeated:
        if len(found.near_missing) != missing:
            missing = len(found.near_missing)
            wanted.clear()
        if numbers not in wanted:
            wanted[numbers] = [n for n in numbers if n not in found.full and index.needs_every_line(n, found)]
        for number in wanted[numbers]:
            if left.get(number) == 0:
                continue
            literal = index.exact.literal_in(number, line)
            for low, high in _line_ranges(line, literal) if literal else ():
                parts = plain_lines(block.content[origin + low : origin + high])
                matched = _match(block, index.patterns[number], parts, origin + low, found.hits[number])
                if matched is None:
                    found.near_missing.add(number)
                left[number] = left.get(number, index.patterns[number].limit) - bool(matched)


def _search(
    block: _Block, excerpt: _Excerpt, prefilter: Prefilter, index: PatternIndex, found: ScanResult, *, words: bytes
) -> None:
    """Find the lines that contain a literal, and match the patterns of the literal there."""
    done: set[tuple[int, int]] = set()
    for literal, numbers in prefilter.candidates(words):
        left = {number: index.patterns[number].limit for number in numbers if number not in found.full}
        for low, high in _line_ranges(excerpt.text, literal) if left else ():
            line = excerpt.text[low:high]
            fitting = [number for number in left if (number, low) not in done and prefilter.fits(number, line)]
            if not fitting:
                continue
            done.update((number, low) for number in fitting)
            origin = excerpt.origin(low)
            parts = plain_lines(block.content[origin : origin + high - low])
            for number in fitting:
                matched = _match(block, index.patterns[number], parts, origin, found.hits[number])
                if matched is None:
                    found.near_missing.add(number)
                left[number] -= bool(matched)
            left = {number: count for number, count in left.items() if count}
            if not left:
                break


def _line_ranges(text: bytes, literal: bytes) -> Iterator[tuple[int, int]]:
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


def _match(block: _Block, pattern: SearchPattern, parts: list[str], position: int, hits: list[Hit]) -> bool | None:
    """Return whether a pattern matches, and add its hit; None if only a nearby line is missing."""
    for part, text in enumerate(parts):
        match = pattern.expression.search(text)
        if match is None:
            continue
        if not block.has_near(position, pattern):
            return None
        line = block.first_line + block.content.count(b"\n", 0, position)
        hit = Hit(block.source, line, part, block.name, _shorten(text, match.start()))
        if hit not in hits:
            hits.append(hit)
        return True
    return False


def _shorten(text: str, position: int) -> str:
    low = max(0, position - TEXT_LIMIT // 2) if len(text) > TEXT_LIMIT else 0
    return text[low : low + TEXT_LIMIT].rstrip()


def _split_at_line_end(block: bytes) -> tuple[bytes, bytes]:
    """Return the whole lines of a block and the rest; a long block without a line end is whole."""
    cut = block.rfind(b"\n") + 1
    return (block[:cut], block[cut:]) if cut or len(block) < LONG_BYTES else (block, b"")


def _context_start(buffer: bytes, position: int) -> int:
    """Return where the last NEAR_LINES lines before a position begin; fewer lines if they are very long."""
    start = max(position - 1, 0)
    for _ in range(NEAR_LINES):
        start = buffer.rfind(b"\n", 0, start)
        if start < 0:
            break
    return max(start + 1, position - LONG_BYTES // 4, 0)
