"""Distributions installed in this environment, and those that a lock pins."""

import importlib.metadata
import importlib.util
import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*==\s*(?P<version>[^\s;\\]+)")
WHEEL = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*@\s*\S*?/(?P<file>[^/\s]+\.whl)")


def installed() -> Mapping[str, list[importlib.metadata.Distribution]]:
    """Return the distributions of this environment by normalised name; more than one of a name is a fault."""
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    found = defaultdict(list)
    for distribution in importlib.metadata.distributions(path=folders):
        found[normalised(distribution.metadata["Name"] or "")].append(distribution)
    return found


def parse_lock(text: str) -> dict[str, str]:
    """Return normalised name and version of each entry of a requirements file with hashes. Raises ValueError for other lines."""
    pins = {}
    for line in text.replace("\\\n", " ").splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith(("#", "-")):
            continue
        if pin := PIN.match(stripped):
            pins[normalised(pin["name"])] = pin["version"]
        elif wheel := WHEEL.match(stripped):
            pins[normalised(wheel["name"])] = wheel["file"].split("-")[1].replace("%2B", "+")
        else:
            raise ValueError(f"the lock pins nothing in its line `{stripped[:80]}`")
    return pins


def normalised(name: str) -> str:
    """Normalise a distribution's name according to the packaging standards."""
    return re.sub(r"[-_.]+", "-", name).lower()


def same_version(one: str, other: str) -> bool:
    """Return whether two versions are equal, ignoring trailing zeros, a leading v and separators."""
    return version_key(one) == version_key(other)


def version_key(version: str) -> tuple[tuple[int, ...], int, str, str]:
    """Return a sortable form of a version; the host's Python may lack `packaging`.

    Returns:
        The numbers; whether it is before (-1) or after (1) the release of these numbers; the rest; the local part.
    """
    public, _, local = version.strip().lower().removeprefix("v").partition("+")
    rest = public.lstrip("0123456789.!")
    numbers = [int(number) for number in re.findall(r"\d+", public.removesuffix(rest))]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    rest = re.sub(r"[-_.]", "", rest)
    place = 1 if rest.startswith("post") else -1 if rest[:1].isalpha() else 0
    return tuple(numbers), place, rest, re.sub(r"[-_]", ".", local)


def site_files(patterns: Iterable[str], *, fallback: Path | None = None) -> list[Path]:
    """Return the files in this environment's site-packages that match any of the patterns, sorted.

    If there is none, search `fallback` instead.
    """
    folders = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    wanted = list(patterns)
    own = sorted({path for folder in folders for pattern in wanted for path in folder.glob(pattern)})
    return own or (sorted({path for pattern in wanted for path in fallback.glob(pattern)}) if fallback else [])


def host_packages(stack: Mapping[str, Any]) -> Path | None:
    """Return the folder of the host's own torch if the Stack uses it, otherwise None."""
    spec = importlib.util.find_spec("torch") if (stack.get("interpreter") or {}).get("torch") else None
    return Path(spec.origin).resolve().parents[1] if spec and spec.origin else None
