"""Files and units on a host, compared with those that it is to have: one round trip, and no playbook where nothing differs."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Collection, Mapping

FOLDER = "/etc/systemd/system"


def sums_command(folder: str, units: Collection[str]) -> str:
    """Return a command that prints the SHA-256 of each file in a folder and of each unit, then whether the units are enabled and active."""
    names = " ".join(sorted(units))
    paths = " ".join(f"{FOLDER}/{name}" for name in sorted(units))
    return (
        f"cd {shlex.quote(folder)} 2>/dev/null || exit 0; sha256sum -- * {paths} 2>/dev/null; "
        f"systemctl is-enabled {names}; systemctl is-active {names}"
    )


def has(said: str, files: Mapping[str, str | bytes], units: Mapping[str, str], running: Collection[str]) -> bool:
    """Return whether a host has these files and units, and the units run.

    Args:
        said: What `sums_command` printed there.
        files: Content of each file by its name.
        units: Text of each unit by its name.
        running: The units that must be enabled and active.
    """
    contents = {**files, **units}.items()
    wanted = {
        name: hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
        for name, content in contents
    }
    lines = said.splitlines()
    found = {path.rpartition("/")[2]: total for total, _, path in (line.partition("  ") for line in lines)}
    states = lines[-2 * len(units) :]
    ordered = sorted(units)
    runs = all(
        (states[place], states[place + len(units)]) == ("enabled", "active")
        for place, name in enumerate(ordered)
        if name in running and len(states) == 2 * len(units)
    )
    return wanted.items() <= found.items() and len(states) == 2 * len(units) and runs
