"""GPU code in a library, read from the containers that nvcc and hipcc embed; needs no GPU and loads nothing.

Codes are written as in the catalog: `90` native code for 9.0, `90a` for 9.0 only, `100f` for its family, `p90` PTX; `gfx942` for AMD.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from verify.binaries import elf

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
    library = elf.open_library(path)
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
