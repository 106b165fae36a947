"""The distributions that this product itself runs with, against those that it was tested with."""

from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement

from provision.core.requirements_file import read_lock


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
