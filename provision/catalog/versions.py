"""Comparable forms of version strings."""

import re
from collections.abc import Iterable
from functools import cache
from typing import Literal, Protocol, TypeVar

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from provision.core.errors import UsageError


@cache
def release(text: str) -> Version:
    """Return the version of a release of vLLM, torch or Python.

    Raises:
        UsageError: The text is not a version.
    """
    try:
        return Version(text)
    except InvalidVersion:
        raise UsageError(f"`{text}` is not a version", hint="versions look like 0.32.0") from None


class Versioned(Protocol):
    """A row of a release."""

    @property
    def version(self) -> str: ...


R = TypeVar("R", bound=Versioned)


def newest_first(rows: Iterable[R]) -> list[R]:
    return sorted(rows, key=lambda row: release(row.version), reverse=True)


@cache
def specifier(text: str) -> SpecifierSet:
    """Return a range such as `>=3.11,<3.15`.

    Raises:
        UsageError: The text is not a range.
    """
    try:
        return SpecifierSet(text, prereleases=True)
    except InvalidSpecifier:
        raise UsageError(f"`{text}` is not a version range", hint="write ==0.32.0 or >=0.30.0") from None


@cache
def within(version: str, bounds: str) -> bool:
    """Return whether a version is in a range."""
    return specifier(bounds).contains(release(version))


@cache
def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers in a version of a driver, glibc, CUDA or ROCm: `535.183.01` gives (535, 183, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


@cache
def between(version: str, since: str, until: str | None) -> bool:
    """Return whether a release is between two, both included; None means no upper end."""
    return release(since) <= release(version) and (until is None or release(version) <= release(until))


@cache
def minor(text: str) -> str:
    """Return the first two numbers: `3.11.2` gives `3.11`."""
    return ".".join(str(number) for number in numbers(text)[:2])


@cache
def platform_of(variant: str) -> Literal["cpu", "cuda", "rocm"]:
    """Return the platform of a build variant: `cu129`, `rocm7.0` or `cpu`."""
    return "cuda" if cuda_of(variant) else "rocm" if variant.startswith("rocm") else "cpu"


@cache
def cuda_of(variant: str) -> str | None:
    """Return the CUDA version of a variant: `cu129` gives `12.9`; None for other variants."""
    match = re.fullmatch(r"cu(\d+)(\d)", variant)
    return f"{match[1]}.{match[2]}" if match else None
