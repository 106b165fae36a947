"""A wheel with a compiled extension: its metadata and libraries, read from the file."""

import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from provision.catalog.versions import numbers
from provision.core.errors import StageError
from verify.binaries.elf import CUDA_SECTION, HIP_SECTION, Elf, cuda_codes, hip_codes, is_of_torch

_MOST_METADATA = 1 << 20
"""Bytes of a wheel's metadata that are read; the fields are at its beginning."""
_GLIBC = re.compile(r"GLIBC_(\d+(?:\.\d+)+)")


@dataclass(frozen=True)
class Library:
    """One shared library."""

    machine: str
    needed: frozenset[str]
    """File names of the libraries that it is linked with."""
    torch_symbols: frozenset[str]
    """Symbols of torch that it needs; without them the loader rejects it."""
    glibc: str | None
    """The newest symbol version of the C library that it needs."""
    codes: frozenset[str]
    """Its GPU code."""


def read_library(content: bytes, name: str) -> Library:
    """Read a 64-bit ELF library. Raises StageError where the content is not a complete library."""
    try:
        elf = Elf(memoryview(content))
        versions = [match[1] for version in elf.versions() if (match := _GLIBC.fullmatch(version))]
        sections = ((elf.section(CUDA_SECTION), cuda_codes), (elf.section(HIP_SECTION), hip_codes))
        return Library(
            machine=elf.machine,
            needed=elf.needed(),
            torch_symbols=frozenset(filter(is_of_torch, elf.symbols()[0])),
            glibc=max(versions, key=numbers, default=None),
            codes=frozenset(code for section, read in sections if section is not None for code in read(section)),
        )
    except (ValueError, struct.error, IndexError) as error:
        raise StageError(
            f"`{name}` is not a complete shared library: {error}", hint="build or fetch the wheel again"
        ) from error


def read_metadata(wheel: zipfile.ZipFile) -> Message:
    """Return the metadata of a wheel. Raises StopIteration where it has none."""
    name = next(name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
    # Wheels come from servers that are not trusted, and a small file may unpack to gigabytes.
    with wheel.open(name) as member:
        return HeaderParser().parsestr(member.read(_MOST_METADATA).decode(errors="replace"))


@dataclass(frozen=True)
class Extension:
    """The properties of a wheel."""

    name: str
    version: str
    """Version in the file name, with the local part that names the target."""
    own_version: str
    """Version in the metadata. The authors of flash-attn rename their wheels, so it has no local part. Source: their publish.yml."""
    pythons: frozenset[str]
    """`cp312`, `py3`."""
    platforms: frozenset[str]
    """`linux_x86_64`, `any`."""
    requires: tuple[str, ...]
    requires_python: str
    """Range of Python versions in the metadata; empty if it has none."""
    libraries: tuple[tuple[str, Library], ...]
    """Libraries by their paths in the wheel."""

    @property
    def codes(self) -> frozenset[str]:
        """GPU architectures with native code in any of its libraries."""
        return frozenset(code for _, library in self.libraries for code in library.codes)

    @property
    def torch_symbols(self) -> frozenset[str]:
        """Symbols of torch that its libraries need."""
        return frozenset(symbol for _, library in self.libraries for symbol in library.torch_symbols)

    @property
    def glibc(self) -> str | None:
        """The newest version of the C library that any of its libraries needs."""
        found = [library.glibc for _, library in self.libraries if library.glibc]
        return max(found, key=numbers, default=None)

    def cuda_majors(self) -> set[int]:
        """Return the majors of the CUDA runtime that its libraries are linked with."""
        names = {name for _, library in self.libraries for name in library.needed}
        return {int(match[1]) for name in names if (match := re.match(r"libcudart\.so\.(\d+)", name))}


def read_extension(wheel: Path, *, published_as: str | None = None) -> Extension:
    """Read a wheel, which may be stored under another name than its authors published it as.

    Raises StageError where the file is no valid wheel, or one of its libraries cannot be read.
    """
    file = published_as or wheel.name
    try:
        name, version, _, tags = parse_wheel_filename(file)
        with zipfile.ZipFile(wheel) as archive:
            headers = read_metadata(archive)
            own = Version(headers["Version"] or "0")
            libraries = tuple(
                (member, read_library(archive.read(member), f"{member} in {file}"))
                for member in archive.namelist()
                if re.search(r"\.so(\.\d+)*$", member)
            )
    except (ValueError, zipfile.BadZipFile, zlib.error, StopIteration) as error:
        raise StageError(
            f"`{file}` is not a valid wheel: {error or 'it has no metadata'}", hint="build or fetch it again"
        ) from error
    if canonicalize_name(headers["Name"] or "") != name or own not in {version, Version(version.public)}:
        raise StageError(
            f"`{file}` has the metadata of {headers['Name']} {headers['Version']}",
            hint="renamed wheels are refused; build or fetch it again",
        )
    return Extension(
        name=name,
        version=str(version),
        own_version=headers["Version"],
        pythons=frozenset(tag.interpreter for tag in tags),
        platforms=frozenset(tag.platform for tag in tags),
        requires=tuple(headers.get_all("Requires-Dist") or ()),
        requires_python=headers["Requires-Python"] or "",
        libraries=libraries,
    )
