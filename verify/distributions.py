"""What is installed in this environment, and what a lock says should be."""

from __future__ import annotations

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
    """The distributions of this environment alone, by normalised name; more than one of a name is a fault."""
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    found = defaultdict(list)
    for distribution in importlib.metadata.distributions(path=folders):
        found[normalised(distribution.metadata["Name"] or "")].append(distribution)
    return found


def parse_lock(text: str) -> dict[str, str]:
    """Normalised name to version, of a requirements file with hashes.

    Raises ValueError with the line that is neither a pin, an option nor a comment.
    """
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
    """A distribution's name as the packaging standards compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def same_version(one: str, other: str) -> bool:
    """Whether two spellings name one version: trailing zeros, a leading v and separators aside."""
    return _canonical(one) == _canonical(other)


def _canonical(version: str) -> tuple[str, str]:
    public, _, local = version.strip().lower().removeprefix("v").partition("+")
    release = re.match(r"[0-9.!]*", public)
    number = release.group() if release else ""
    rest = re.sub(r"[-_.]", "", public[len(number) :])
    return re.sub(r"(\.0)+$", "", number.rstrip(".")) + rest, re.sub(r"[-_]", ".", local)


def site_files(patterns: Iterable[str], *, beside: Path | None = None) -> list[Path]:
    """The files below this environment's site-packages that match any of the patterns, each once, in order.

    Where there is none, those below `beside`.
    """
    folders = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    wanted = list(patterns)
    own = sorted({path for folder in folders for pattern in wanted for path in folder.glob(pattern)})
    return own or (sorted({path for pattern in wanted for path in beside.glob(pattern)}) if beside else [])


def host_packages(stack: Mapping[str, Any]) -> Path | None:
    """The packages among which the host's own torch lies, where the Stack takes that over; null where it brings one."""
    spec = importlib.util.find_spec("torch") if (stack.get("interpreter") or {}).get("torch") else None
    return Path(spec.origin).resolve().parents[1] if spec and spec.origin else None
