"""What a wheel was built for, by its own metadata and the libraries in it."""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from provision.catalog.versions import numbers
from provision.core.errors import StageError
from provision.phases.stage.builds.shared_library import Library, read_library


@dataclass(frozen=True)
class Extension:
    """A wheel, looked at."""

    name: str
    version: str
    """Of its file name, with the local part that names what it is for."""
    own_version: str
    """As its metadata writes it. flash-attn's authors rename their wheels (publish.yml): the local part stands in the file name alone."""
    pythons: frozenset[str]
    """`cp312`, `py3`."""
    platforms: frozenset[str]
    """`linux_x86_64`, `any`."""
    requires: tuple[str, ...]
    libraries: tuple[tuple[str, Library], ...]
    """By their paths in the wheel."""

    @property
    def codes(self) -> frozenset[str]:
        """GPU code in all of its libraries."""
        return frozenset(code for _, library in self.libraries for code in library.codes)

    @property
    def torch_symbols(self) -> frozenset[str]:
        """Symbols of torch that its libraries want."""
        return frozenset(symbol for _, library in self.libraries for symbol in library.torch_symbols)

    @property
    def glibc(self) -> str | None:
        """The newest version of the C library that any of its libraries wants."""
        found = [library.glibc for _, library in self.libraries if library.glibc]
        return max(found, key=numbers, default=None)

    def cuda_majors(self) -> set[int]:
        """Majors of the CUDA runtime that its libraries are linked with."""
        names = {name for _, library in self.libraries for name in library.needed}
        return {int(match[1]) for name in names if (match := re.match(r"libcudart\.so\.(\d+)", name))}


def read_extension(wheel: Path, *, published_as: str | None = None) -> Extension:
    """Look into a wheel. `published_as` is the file name that its authors gave it, where it is kept under another.

    Raises StageError when it is none, or holds a library that cannot be read.
    """
    file = published_as or wheel.name
    try:
        name, version, _, tags = parse_wheel_filename(file)
        with zipfile.ZipFile(wheel) as archive:
            members = archive.namelist()
            metadata = next(member for member in members if re.fullmatch(r"[^/]+\.dist-info/METADATA", member))
            headers = HeaderParser().parsestr(archive.read(metadata).decode())
            own = Version(headers["Version"] or "0")
            libraries = tuple(
                (member, read_library(archive.read(member), f"{member} in {file}"))
                for member in members
                if re.search(r"\.so(\.\d+)*$", member)
            )
    except (ValueError, zipfile.BadZipFile, zlib.error, StopIteration) as error:
        raise StageError(
            f"`{file}` is no whole wheel: {error or 'it has no metadata'}", hint="build or fetch it again"
        ) from error
    if canonicalize_name(headers["Name"] or "") != name or own not in {version, Version(version.public)}:
        raise StageError(
            f"`{file}` says of itself that it is {headers['Name']} {headers['Version']}",
            hint="a renamed wheel is not used; build or fetch it again",
        )
    return Extension(
        name=name,
        version=str(version),
        own_version=headers["Version"],
        pythons=frozenset(tag.interpreter for tag in tags),
        platforms=frozenset(tag.platform for tag in tags),
        requires=tuple(headers.get_all("Requires-Dist") or ()),
        libraries=libraries,
    )
