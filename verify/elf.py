"""Shared libraries read as files: nothing is loaded, so a broken one does no harm. 64-bit ELF, little-endian.

The controller reads wheels with a library of its own; on hosts there is only the standard library.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_IDENT = b"\x7fELF\x02\x01"
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
"""Type, machine, version, entry, offsets of program and section headers, flags, sizes and counts, the names' section."""
_SECTION = struct.Struct("<IIQQQQIIQQ")
"""Name, type, flags, address, offset, size, link, info, alignment, size of an entry."""
_SYMBOL = struct.Struct("<IBBHQQ")
"""Name, info, other, section, value, size."""
_NO_BITS, _DYNAMIC_SYMBOLS = 8, 11
_WEAK, _UNDEFINED = 2, 0


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    offset: int
    size: int
    link: int


class Elf:
    """One library."""

    def __init__(self, content: memoryview) -> None:
        """Raises ValueError when the content is no whole library of this kind."""
        if bytes(content[: len(_IDENT)]) != _IDENT:
            raise ValueError("it is no 64-bit ELF file")
        self._content = content
        try:
            self._sections = self._read_sections()
        except (struct.error, IndexError) as error:
            raise ValueError(f"its headers are cut off: {error}") from None

    def section(self, name: str) -> memoryview | None:
        """A section's bytes, null where there is none of the name. Raises ValueError when it reaches beyond the file."""
        found = next((section for section in self._sections if section.name == name and section.kind != _NO_BITS), None)
        return self._bytes(found) if found else None

    def symbols(self) -> tuple[frozenset[str], frozenset[str]]:
        """What the loader must find elsewhere, and what others find here: dynamic symbols by name.

        Raises ValueError when a table reaches beyond the file.
        """
        wanted, offered = set(), set()
        for symbol, section, info in self._symbols():
            if section != _UNDEFINED:
                offered.add(symbol)
            elif info >> 4 != _WEAK:
                wanted.add(symbol)
        return frozenset(wanted), frozenset(offered)

    def _symbols(self) -> Iterator[tuple[str, int, int]]:
        for table in self._sections:
            if table.kind == _DYNAMIC_SYMBOLS:
                names = bytes(self._bytes(self._sections[table.link]))
                content = self._bytes(table)
                for offset, info, _, section, _, _ in _SYMBOL.iter_unpack(content[: len(content) // 24 * 24]):
                    yield names[offset : names.index(b"\0", offset)].decode("ascii", "replace"), section, info

    def _read_sections(self) -> list[_Section]:
        _, _, _, _, _, start, _, _, _, _, size, count, names_at = _HEADER.unpack_from(self._content)
        rows = [_SECTION.unpack_from(self._content, start + size * index) for index in range(count)]
        if not rows:
            raise ValueError("it has no section headers")
        names = bytes(self._content[rows[names_at][4] : rows[names_at][4] + rows[names_at][5]])
        return [
            _Section(
                names[row[0] : names.index(b"\0", row[0])].decode("ascii", "replace"), row[1], row[4], row[5], row[6]
            )
            for row in rows
        ]

    def _bytes(self, section: _Section) -> memoryview:
        end = section.offset + section.size
        if end > len(self._content):
            raise ValueError(f"its section {section.name} reaches beyond the file")
        return self._content[section.offset : end]


def open_library(path: Path) -> Elf:
    """A library by its path, mapped and not read: some are larger than a gigabyte. Raises OSError and ValueError."""
    with path.open("rb") as file:
        return Elf(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
