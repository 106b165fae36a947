"""Reader of 64-bit little-endian ELF files that loads no code, so that a broken library does no harm: C++ symbols, and GPU code.

GPU code is read from the containers that nvcc and hipcc embed. Codes are written as in the catalog: `90` native code for 9.0, `90a` for
9.0 only, `100f` for its family, `p90` PTX; `gfx942` for AMD.
"""

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_IDENT = b"\x7fELF\x02\x01"
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
"""Type, machine, version, entry, offsets of program and section headers, flags, sizes and counts, the names' section."""
_SECTION = struct.Struct("<IIQQQQIIQQ")
"""Name, type, flags, address, offset, size, link, info, alignment, size of an entry."""
_SYMBOL = struct.Struct("<IBBHQQ")
"""Name, info, other, section, value, size."""
_NO_BITS, _DYNAMIC, _DYNAMIC_SYMBOLS, _VERSIONS_NEEDED = 8, 6, 11, 0x6FFFFFFE
_WEAK, _UNDEFINED, _NEEDED = 2, 0, 1
MACHINES = {62: "x86_64", 183: "aarch64"}
"""By e_machine."""


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
        """Read the section headers. Raises ValueError for anything but a complete library of this kind."""
        if bytes(content[: len(_IDENT)]) != _IDENT:
            raise ValueError("it is not a 64-bit ELF file")
        self._content = content
        try:
            _, number, _, _, _, start, _, _, _, _, size, count, names_at = _HEADER.unpack_from(content)
            rows = [_SECTION.unpack_from(content, start + size * index) for index in range(count)]
            if not rows:
                raise ValueError("it has no section headers")
            names = bytes(content[rows[names_at][4] : rows[names_at][4] + rows[names_at][5]])
            self._sections = [_Section(_string(names, row[0]), row[1], row[4], row[5], row[6]) for row in rows]
            self.machine = MACHINES.get(number, str(number))
        except (struct.error, IndexError) as error:
            raise ValueError(f"its headers are cut off: {error}") from None

    def section(self, name: str) -> memoryview | None:
        """Return the bytes of a section, None if there is none of that name. Raises ValueError where it exceeds the file."""
        found = next((section for section in self._sections if section.name == name and section.kind != _NO_BITS), None)
        return self._bytes(found) if found else None

    def symbols(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the dynamic symbols that the library needs, and those that it provides. Raises ValueError where a table exceeds the file."""
        wanted, offered = set(), set()
        for content, names in self._tables(_DYNAMIC_SYMBOLS):
            for offset, info, _, section, _, _ in _SYMBOL.iter_unpack(content[: len(content) // 24 * 24]):
                if section != _UNDEFINED:
                    offered.add(_string(names, offset))
                elif info >> 4 != _WEAK:
                    wanted.add(_string(names, offset))
        return frozenset(wanted), frozenset(offered)

    def needed(self) -> frozenset[str]:
        """Return the file names of the libraries that it is linked with."""
        return frozenset(
            _string(names, value)
            for content, names in self._tables(_DYNAMIC)
            for tag, value in struct.iter_unpack("<qQ", content[: len(content) // 16 * 16])
            if tag == _NEEDED
        )

    def versions(self) -> frozenset[str]:
        """Return the symbol versions that it needs, such as `GLIBC_2.34`."""
        found = set()
        for content, names in self._tables(_VERSIONS_NEEDED):
            at, step = 0, 1
            while step:
                _, count, _, first, step = struct.unpack_from("<HHIII", content, at)
                entry = at + first
                for _ in range(count):
                    _, _, _, name, following = struct.unpack_from("<IHHII", content, entry)
                    found.add(_string(names, name))
                    entry += following
                at += step
        return frozenset(found)

    def _tables(self, kind: int) -> Iterator[tuple[memoryview, bytes]]:
        """Yield the content of each section of a kind, and the strings it refers to."""
        for table in self._sections:
            if table.kind == kind:
                yield self._bytes(table), bytes(self._bytes(self._sections[table.link]))

    def _bytes(self, section: _Section) -> memoryview:
        end = section.offset + section.size
        if end > len(self._content):
            raise ValueError(f"its section {section.name} reaches beyond the file")
        return self._content[section.offset : end]


def map_library(file: IO[bytes]) -> Elf:
    """Map an open file as a library, because some are larger than a gigabyte. Raises OSError and ValueError."""
    return Elf(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _string(names: bytes, offset: int) -> str:
    return names[offset : names.index(b"\0", offset)].decode("ascii", "replace")


_TORCH = re.compile(r"3c10|2at|5torch|6caffe2")
"""Namespaces of torch in mangled symbols: each name after its length."""


def is_of_torch(symbol: str) -> bool:
    """Return whether a symbol names something of torch."""
    return _TORCH.search(symbol) is not None


CUDA_SECTION = ".nv_fatbin"
HIP_SECTION = ".hip_fatbin"

_MAGIC = re.compile(re.escape(struct.pack("<I", 0xBA55ED50)))
_CONTAINER = struct.Struct("<IHHQ")
"""Magic, version, size of this header, size of the entries that follow."""
_ENTRY = struct.Struct("<HHIQIIHHIIIQ")
"""Kind, version, header size, payload size, three fields of compression and options, compiler version (2), architecture, two more, flags."""
_PTX, _NATIVE = 1, 2
_FAMILY, _EXACT = 0x200000, 0x100000
"""Found in output of ptxas 13.0 for sm_90, sm_90a and sm_100f; NVIDIA does not document these flags."""
_TARGET = re.compile(rb"amdgcn-amd-amdhsa-[\w.]*-(gfx[0-9a-f]+)")


def cuda_codes(section: bytes | memoryview) -> set[str]:
    """Return the codes in an `.nv_fatbin` section. Raises ValueError where an entry is cut off."""
    found = set()
    for start, end in _containers(section):
        at = start
        while at < end:
            if at + _ENTRY.size > end:
                raise ValueError(f"a code entry at byte {at} is cut off")
            kind, _, header, payload, *_, arch, _, _, flags = _ENTRY.unpack_from(section, at)
            if header < _ENTRY.size:
                raise ValueError(f"a code entry at byte {at} has a header of {header} bytes")
            if kind == _PTX:
                found.add(f"p{arch}")
            elif kind == _NATIVE:
                suffix = "f" if flags & _FAMILY else "a" if flags & _EXACT else ""
                found.add(f"{arch}{suffix}")
            at += header + payload
    return found


def read_codes(path: Path) -> set[str] | None:
    """Return the GPU code in a library; None if it has no section for it. Raises OSError, and ValueError for a damaged one."""
    with path.open("rb") as file:
        library = map_library(file)
    sections = [(library.section(name), read) for name, read in ((CUDA_SECTION, cuda_codes), (HIP_SECTION, hip_codes))]
    found = [read(section) for section, read in sections if section is not None]
    return set().union(*found) if found else None


def hip_codes(section: bytes | memoryview) -> set[str]:
    """Return the architectures in a `.hip_fatbin` section, the targets of its bundles."""
    return {match.decode() for match in _TARGET.findall(section)}


def native_for(codes: set[str], capability: str) -> bool:
    """Return whether codes include native code for a card: compute capability (`8.9`) or AMD architecture (`gfx942`).

    Native code runs on cards of the same major and an equal or higher minor number. Code with `a` runs on that card only; code
    with `f` (CUDA 12.9 and later) runs on cards of the same major number from that minor number on.
    """
    if capability.startswith("gfx"):
        return capability in codes
    major, _, minor = capability.partition(".")
    for code in codes:
        match = re.fullmatch(r"(\d+)(\d)([af]?)", code)
        if match and match[1] == major and (match[2] == minor or (match[3] != "a" and int(match[2]) < int(minor))):
            return True
    return False


def compiled_for(codes: set[str], capability: str) -> bool:
    """Return whether the driver can compile PTX of the set for a card of compute capability `capability`."""
    if capability.startswith("gfx"):
        return False
    major, _, minor = capability.partition(".")
    versions = [(int(match[1]), int(match[2])) for code in codes if (match := re.fullmatch(r"p(\d+)(\d)", code))]
    return any(version <= (int(major), int(minor)) for version in versions)


def _containers(section: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Yield start and end of the entries of each container. Containers may be separated by padding of whole words."""
    at = 0
    while (found := _MAGIC.search(section, at)) and found.start() + _CONTAINER.size <= len(section):
        at = found.start()
        if at % 8:
            at += 1
            continue
        _, _, header, size = _CONTAINER.unpack_from(section, at)
        end = at + header + size
        if end > len(section):
            raise ValueError(f"a code container at byte {at} reaches beyond its section")
        yield at + header, end
        at = end
