"""The distributions that this product itself runs with, against those that it was tested with."""

import re
from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement

_PINNED = re.compile(r"^[A-Za-z0-9][^\\\n]*==[^\\\n]*", re.MULTILINE)


def differences(lock: str) -> list[str]:
    """Return a line for each distribution of this Python environment that differs from a lock, a requirements file with exact versions."""
    lines = []
    for wanted in map(Requirement, _PINNED.findall(lock)):
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
