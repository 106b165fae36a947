"""The files that OpenSSH's client reads its configuration from."""

from __future__ import annotations

import glob
import os
import pwd
import re
from collections.abc import Iterable
from pathlib import Path

_INCLUDE = re.compile(r"^\s*include(?:\s*=\s*|\s+)(.+)$", re.IGNORECASE | re.MULTILINE)


def ssh_files(named: Iterable[str], *, alone: bool = False) -> list[Path]:
    """The user's configuration, the system's, those that are named (`alone`: only these), and all that they include."""
    try:
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # OpenSSH runs for no account that the system does not know; this machine needs none of it
        home = Path.home()
    pending = [Path(name.replace("~", str(home), 1)) for name in named]
    pending += [] if alone else [home / ".ssh/config", Path("/etc/ssh/ssh_config")]
    found: list[Path] = []
    while pending:
        file = pending.pop()
        if file in found:
            continue
        found.append(file)
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        base = Path("/etc/ssh") if file.is_relative_to("/etc/ssh") else home / ".ssh"
        for line in _INCLUDE.findall(text):
            for word in line.replace('"', " ").split():
                pattern = word.replace("~", str(home), 1) if word.startswith("~") else str(base / word)
                pending += [Path(match) for match in sorted(glob.glob(pattern))]  # noqa: PTH207  # absolute patterns
    return found
