"""Comparable forms of the version strings that the tables hold."""

from __future__ import annotations

import re
from functools import cache

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from provision.core.errors import UsageError


@cache
def release(text: str) -> Version:
    """A release of vLLM, torch or Python. Raises UsageError when it is no version."""
    try:
        return Version(text)
    except InvalidVersion:
        raise UsageError(f"`{text}` is not a version", hint="versions look like 0.32.0") from None


@cache
def specifier(text: str) -> SpecifierSet:
    """A range such as `>=3.11,<3.15`. Raises UsageError when it is none."""
    try:
        return SpecifierSet(text, prereleases=True)
    except InvalidSpecifier:
        raise UsageError(f"`{text}` is not a version range", hint="write ==0.32.0 or >=0.30.0") from None


@cache
def within(version: str, bounds: str) -> bool:
    """Whether a version lies in a range of Python's own notation."""
    return specifier(bounds).contains(release(version))


@cache
def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a dotted string, for drivers, glibc, CUDA and ROCm: `535.183.01` is (535, 183, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


@cache
def between(version: str, since: str, until: str | None) -> bool:
    """Whether a release lies between two, both included; no upper end when `until` is None."""
    return release(since) <= release(version) and (until is None or release(version) <= release(until))


def is_of(version: str, whole: str) -> bool:
    """Whether a release of a distribution is a table's one or lies within it: `9.4` is of `9`, and `22.04` is of `22.04`."""
    return version == whole or version.startswith(f"{whole}.")


@cache
def minor(text: str) -> str:
    """The first two numbers: `3.11.2` gives `3.11`."""
    return ".".join(str(number) for number in numbers(text)[:2])


@cache
def cuda_of(variant: str) -> str | None:
    """The CUDA version in a variant's name: `cu129` gives `12.9`; None for other variants."""
    match = re.fullmatch(r"cu(\d+)(\d)", variant)
    return f"{match[1]}.{match[2]}" if match else None
