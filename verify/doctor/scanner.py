"""A scanner that reads any text once, as a stream, and keeps the first lines that match each pattern.

Most lines of a log match nothing. The scanner therefore reduces each block to its distinct words first, looks only for
patterns whose literals consist of these words, and matches an expression only against lines that contain its literals.
Of lines that differ in numbers alone, most patterns see one. Memory, and the length of text that an expression sees,
are bounded for any text.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from verify.doctor.line_kinds import Excerpt, Kinds, LineKinds, line_ranges
from verify.doctor.prefilter import Prefilter, distinct_words
from verify.doctor.search_patterns import PatternIndex, SearchPattern
from verify.doctor.text_decoding import BLOCK_BYTES, LINE_BYTES, Readable, clean_block, decode_blocks, plain_lines

NEAR_LINES = 20
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
        lines = LineKinds(lowered[begin:end], begin, kinds)
        words = distinct_words(lines.new_without_digits.text)
        _search(block, lines.new, index.by_kind, index, found, words=words)
        lines.learn(index, words)
        _search_every_line(block, lines, index, found)
        if index.digits_only.literals:
            whole = Excerpt(lowered[begin:end], [0], [begin])
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


def _search_every_line(block: _Block, lines: LineKinds, index: PatternIndex, found: ScanResult) -> None:
    """Match the patterns that need to see every line of a kind."""
    left: dict[int, int] = {}
    wanted: dict[tuple[int, ...], list[int]] = {}
    missing = len(found.near_missing)
    for origin, line, numbers in lines.repeated:
        if len(found.near_missing) != missing:
            missing = len(found.near_missing)
            wanted.clear()
        if numbers not in wanted:
            wanted[numbers] = [
                n for n in numbers if n not in found.full and index.needs_every_line(n, found.near_missing)
            ]
        for number in wanted[numbers]:
            if left.get(number) == 0:
                continue
            literal = index.exact.literal_in(number, line)
            for low, high in line_ranges(line, literal) if literal else ():
                parts = plain_lines(block.content[origin + low : origin + high])
                matched = _match(block, index.patterns[number], parts, origin + low, found.hits[number])
                if matched is None:
                    found.near_missing.add(number)
                left[number] = left.get(number, index.patterns[number].limit) - bool(matched)


def _search(
    block: _Block, excerpt: Excerpt, prefilter: Prefilter, index: PatternIndex, found: ScanResult, *, words: bytes
) -> None:
    """Find the lines that contain a literal, and match the patterns of the literal there."""
    done: set[tuple[int, int]] = set()
    for literal, numbers in prefilter.candidates(words):
        left = {number: index.patterns[number].limit for number in numbers if number not in found.full}
        for low, high in line_ranges(excerpt.text, literal) if left else ():
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
