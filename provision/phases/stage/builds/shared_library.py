"""What a shared library needs and offers, read from the file: nothing is loaded, so a broken one does no harm."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from provision.catalog.versions import numbers
from provision.core.errors import StageError
from verify.cxx_abi import is_of_torch
from verify.gpu_code import CUDA_SECTION, HIP_SECTION, cuda_codes, hip_codes

_SYMBOL = struct.Struct("<IBBHQQ")
"""An entry of .dynsym: name, info, other, section, value, size (ELF-64)."""
_WEAK, _UNDEFINED = 2, 0
_MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
_GLIBC = re.compile(r"GLIBC_(\d+(?:\.\d+)+)")


@dataclass(frozen=True)
class Library:
    """One shared library."""

    machine: str
    needed: frozenset[str]
    """Libraries that it is linked with, by file name."""
    torch_symbols: frozenset[str]
    """Symbols of torch that it wants from elsewhere; without them the loader refuses it."""
    glibc: str | None
    """The newest symbol version of the C library that it wants."""
    codes: frozenset[str]
    """GPU code in it."""


def read_library(file: IO[bytes], name: str) -> Library:
    """Read a 64-bit ELF library. Raises StageError when it is none."""
    try:
        elf = ELFFile(file)
        symbols = [symbol for symbol, section, info in _symbols(elf) if section == _UNDEFINED and info >> 4 != _WEAK]
        return Library(
            machine=_MACHINES.get(elf["e_machine"], elf["e_machine"]),
            needed=frozenset(_needed(elf)),
            torch_symbols=frozenset(symbol for symbol in symbols if is_of_torch(symbol)),
            glibc=_newest_glibc(elf),
            codes=frozenset(_codes(elf)),
        )
    except (ELFError, ValueError, struct.error) as error:
        raise StageError(
            f"`{name}` is no whole shared library: {error}", hint="build or fetch the wheel again"
        ) from error


def defined_symbols(file: IO[bytes], wanted: frozenset[str]) -> frozenset[str]:
    """Which of the wanted symbols a library defines."""
    return frozenset(name for name, section, _ in _symbols(ELFFile(file)) if section != _UNDEFINED and name in wanted)


def _symbols(elf: ELFFile) -> Iterator[tuple[str, int, int]]:
    """Name, section and info of each dynamic symbol. Unpacked here: torch has hundreds of thousands of them."""
    table = elf.get_section_by_name(".dynsym")
    if table is None:
        return
    names: bytes = elf.get_section(table["sh_link"]).data()
    for offset, info, _, section, _, _ in _SYMBOL.iter_unpack(table.data()):
        yield names[offset : names.index(b"\0", offset)].decode("ascii", "replace"), section, info


def _needed(elf: ELFFile) -> Iterator[str]:
    section = elf.get_section_by_name(".dynamic")
    if isinstance(section, DynamicSection):
        yield from (str(getattr(tag, "needed", "")) for tag in section.iter_tags("DT_NEEDED"))


def _newest_glibc(elf: ELFFile) -> str | None:
    section = elf.get_section_by_name(".gnu.version_r")
    if not isinstance(section, GNUVerNeedSection):
        return None
    found = [
        match[1]
        for _, versions in section.iter_versions()
        for version in versions
        if (match := _GLIBC.fullmatch(version.name))
    ]
    return max(found, key=numbers, default=None)


def _codes(elf: ELFFile) -> Iterator[str]:
    for name, read in ((CUDA_SECTION, cuda_codes), (HIP_SECTION, hip_codes)):
        section = elf.get_section_by_name(name)
        if section is not None:
            yield from read(section.data())
