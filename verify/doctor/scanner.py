"""A scanner that reads any text once, as a stream, and keeps the first lines that match each pattern.

Most lines of a log match nothing. An expression is matched only against lines that contain its literals, and of lines that
differ in numbers alone, which are of one kind, most patterns see the first. With each of 1,400 expressions for each line
a log of 100 MB would take half an hour. Memory, and the length of text that an expression sees, are bounded for any text.
"""

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
from verify.secret_masking import masked

NEAR_LINES = 20
LONG_BYTES = 4 * BLOCK_BYTES
"""Text without line ends is split from this size on."""
START_BYTES = 1 << 15
"""Size of a text's beginning, and of its end, that a result keeps."""
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
        places, lines = _parts(block.content[begin:end].lower(), begin)
        marks = [hash(line_kind(line)) for line in lines]
        new = {mark: line for mark, line in zip(marks, lines, strict=True) if mark not in self._kinds}
        first = dict(zip(new, self._index.candidates(list(new.values())), strict=True))
        for place, mark, line in zip(places, marks, lines, strict=True):
            numbers = first[mark] if mark in first else self._kinds[mark]
            matched: list[int] = []
            if numbers and (same := hash(line)) not in self._misses:
                matched = [number for number in numbers if self._matches(block, line, number, place)]
                if not matched:
                    self._misses.add(same)
            if first.pop(mark, None) is not None:
                near = {number for number in matched if self._index.patterns[number].near}
                of_kind = self._patterns_of_kind(block.content[place : place + len(line)], numbers)
                self._kinds[mark] = sorted(near.union(of_kind))

    def _patterns_of_kind(self, line: bytes, numbers: list[int]) -> list[int]:
        """Return those of the patterns that may match one line of this line's kind and not another."""
        kinds = [text_kind(text) for text in plain_lines(line)]
        return [
            number
            for number in self._index.digits.intersection(numbers)
            if any(map(self._index.patterns[number].kind_expression.search, kinds))
        ]

    def _matches(self, block: _Block, line: bytes, number: int, place: int) -> bool:
        """Return whether a pattern that wants more hits matches a line; add its hit if the lines near it match as well."""
        pattern, hits = self._index.patterns[number], self._found.hits[number]
        if len(hits) >= pattern.limit or not self._index.fits(number, line):
            return False
        for part, text in enumerate(plain_lines(block.content[place : place + len(line)])):
            match = pattern.expression.search(text)
            if match is None or is_quotation(text):
                continue
            if block.has_near(place, pattern):
                first = block.first_line + block.content.count(b"\n", 0, place)
                hit = Hit(self._source, first, part, self._found.name, _shorten(text, match.start()))
                if hit not in hits:
                    hits.append(hit)
            return True
        return False


def _parts(text: bytes, begin: int) -> tuple[list[int], list[bytes]]:
    """Return the lines of a text that begins at a place, with the place of each; a very long line in parts that overlap."""
    places, lines = [], []
    for line in text.split(b"\n"):
        is_whole = len(line) <= LINE_BYTES or (line.startswith(b"{") and len(line) <= JSON_BYTES)
        size, step = (len(line), len(line) + 1) if is_whole else (LINE_BYTES, LINE_BYTES // 2)
        for offset in range(0, len(line) + 1, step):
            places.append(begin + offset)
            lines.append(line[offset : offset + size])
        begin += len(line) + 1
    return places, lines


def _shorten(text: str, position: int) -> str:
    if len(text) <= TEXT_LIMIT:
        return text.rstrip()
    # Masked before the cut: nothing shows that the end of a secret is one, once its name is cut off.
    before = masked(text[:position])[-TEXT_LIMIT // 2 :]
    return (before + text[position:])[:TEXT_LIMIT].rstrip()


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
