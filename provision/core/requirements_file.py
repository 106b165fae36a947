"""Requirements files with exact versions and hashes, as uv writes them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement

_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>.+?))?(?: +--hash|\s*$)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class LockedPackage:
    """A distribution of a lock with the hashes of its files."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str | None = None
    """The condition under which it is installed; None: always."""

    @property
    def requirement(self) -> str:
        """Its requirement, as `packaging` reads it."""
        return f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")


def read_lock(text: str) -> Iterator[LockedPackage]:
    """Yield the distributions of a requirements file, in its order."""
    for line in text.replace("\\\n", " ").splitlines():
        if found := _PIN.match(line):
            yield LockedPackage(found["name"], found["version"], tuple(_HASH.findall(line)), found["marker"])


def differences(lock: str) -> list[str]:
    """Return a line for each distribution of this Python environment that differs from a lock, a requirements file with exact versions."""
    lines = []
    for wanted in (Requirement(package.requirement) for package in read_lock(lock)):
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        tested = str(wanted.specifier).removeprefix("==")
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            lines.append(f"{wanted.name} is missing; tested with {tested}")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            lines.append(f"{wanted.name} {found}; tested with {tested}")
    return lines
