"""A scanner that reads any text once, as a stream, and keeps the first lines that match each pattern.

Most lines of a log match nothing. An expression is matched only against lines that contain its literals, and of lines that
differ in numbers alone, which are of one kind, most patterns see the first. With each of 1,400 expressions for each line
a log of 100 MB would take half an hour. Memory, and the length of text that an expression sees, are bounded for any text.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from verify.doctor.failure_detection import is_quotation
from verify.doctor.patterns import PatternIndex, SearchPattern, line_kind, text_kind
from verify.doctor.text_decoding import (
    BLOCK_BYTES,
    JSON_BYTES,
    LINE_BYTES,
    Readable,
    clean_block,
    plain_lines,
)

NEAR_LINES = 20
LONG_BYTES = 4 * BLOCK_BYTES
"""Text without line ends is split from this size on."""
START_BYTES = 1 << 15
"""Size of a text's beginning, and of its end, that a result keeps."""
LINE_PIECES = 16
"""Maximum number of places in one line that are examined for one literal."""
KINDS_LIMIT = 200_000
"""Maximum number of kinds of lines that are remembered."""
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


def scan(stream: Readable, index: PatternIndex, *, name: str, source: int = 0) -> ScanResult:
    """Search a text for all patterns of an index in one pass; its hits have its name and number. Raises OSError where it cannot be read."""
    found = ScanResult([[] for _ in index.patterns], name=name)
    search = _Search(index, found, source)
    buffer, begin, number, tail = b"", 0, 1, b""
    ended = False
    while not ended:
        raw = stream.read(BLOCK_BYTES)
        ended = not raw
        found.size += len(raw)
        fresh, tail = (tail, b"") if ended else _split_at_line_end(tail + raw)
        fresh = clean_block(fresh)
        found.add_text(fresh)
        buffer += fresh
        end = len(buffer) if ended else _context_start(buffer, len(buffer))
        if end <= begin:
            continue
        search.add(_Block(buffer, number), begin, end)
        keep = _context_start(buffer, end)
        number += buffer.count(b"\n", 0, keep)
        buffer, begin = buffer[keep:], end - keep
    return found


@dataclass(frozen=True)
class _Block:
    """A block of the text, with the lines before and after the part that is examined."""

    content: bytes
    first_line: int

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


class _Search:
    """The search of one text, block by block, and what it remembers of the lines so far."""

    def __init__(self, index: PatternIndex, found: ScanResult, source: int) -> None:
        self._index, self._found, self._source = index, found, source
        self._kinds: dict[int, list[int]] = {}
        """The kinds of lines seen so far, by hash, with the patterns that may see more lines of the kind."""
        self._misses: set[int] = set()
        """Lines that no pattern matches, by hash."""

    def add(self, block: _Block, begin: int, end: int) -> None:
        """Match the patterns against the lines of a block between two positions that may match them."""
        for known in (self._kinds, self._misses):
            if len(known) > KINDS_LIMIT:
                known.clear()
        lines = block.content[begin:end].lower().split(b"\n")
        marks = [hash(line_kind(line)) for line in lines]
        new = {mark: line for mark, line in zip(marks, lines, strict=True) if mark not in self._kinds}
        first = dict(zip(new, self._index.candidates(list(new.values())), strict=True))
        for mark, line in zip(marks, lines, strict=True):
            numbers = first[mark] if mark in first else self._kinds[mark]
            matched: list[int] = []
            if numbers and (same := hash(line)) not in self._misses:
                matched = [number for number in numbers if self._matches(block, line, number, begin)]
                if not matched:
                    self._misses.add(same)
            if first.pop(mark, None) is not None:
                near = {number for number in matched if self._index.patterns[number].near}
                of_kind = self._patterns_of_kind(block.content[begin : begin + len(line)], numbers)
                self._kinds[mark] = sorted(near.union(of_kind))
            begin += len(line) + 1

    def _patterns_of_kind(self, line: bytes, numbers: list[int]) -> list[int]:
        """Return those of the patterns that may match one line of this line's kind and not another."""
        numbers = [number for number in numbers if number in self._index.digits]
        if not numbers or len(line) > LINE_BYTES // 2:
            return numbers
        kinds = [text_kind(text) for text in plain_lines(line)]
        return [number for number in numbers if any(map(self._index.patterns[number].kind_expression.search, kinds))]

    def _matches(self, block: _Block, line: bytes, number: int, origin: int) -> bool:
        """Return whether a pattern that wants more hits matches a line; of a very long line one of the parts around its literals."""
        pattern, hits = self._index.patterns[number], self._found.hits[number]
        if len(hits) >= pattern.limit or not self._index.fits(number, line):
            return False
        for literal in self._index.groups[number][0]:
            for low, high in line_parts(line, literal):
                texts = plain_lines(block.content[origin + low : origin + high])
                if self._add_match(block, pattern, texts, origin + low, hits):
                    return True
                if high - low == len(line):
                    return False
        return False

    def _add_match(
        self, block: _Block, pattern: SearchPattern, texts: list[str], position: int, hits: list[Hit]
    ) -> bool:
        """Return whether a pattern matches one of the texts of a line; add its hit if the lines near it match as well."""
        for part, text in enumerate(texts):
            match = pattern.expression.search(text)
            if match is None or is_quotation(text):
                continue
            if block.has_near(position, pattern):
                line = block.first_line + block.content.count(b"\n", 0, position)
                hit = Hit(self._source, line, part, self._found.name, _shorten(text, match.start()))
                if hit not in hits:
                    hits.append(hit)
            return True
        return False


def line_parts(line: bytes, literal: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the parts of a line around a literal; a line that is not very long is one part."""
    position, pieces = line.find(literal), 0
    while position >= 0 and pieces < LINE_PIECES:
        if len(line) <= LINE_BYTES // 2 or (line.startswith(b"{") and len(line) <= JSON_BYTES):
            low, high = 0, len(line)
        else:
            low, high = max(0, position - LINE_BYTES // 2), min(len(line), position + LINE_BYTES // 2)
        yield low, high
        pieces += 1
        position = line.find(literal, max(high, position + 1))


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
