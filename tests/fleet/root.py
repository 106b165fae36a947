"""The bare Debian root of all test hosts, made once by debootstrap and kept outside the checkout.

The mirror is the one of this machine's own apt sources; the repository has no address.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.fleet.emulation import emulate

BOOKWORM, TRIXIE = "bookworm", "trixie"
"""Debian 12 and 13."""
INCLUDE = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "python3",
    "sudo",
    "iproute2",
    "ca-certificates",
    "procps",
)
"""A minimal server: no venv, no pip, no compiler."""


def cache_folder() -> Path:
    """Return the folder of files that outlive a test session."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "firstlight-tests"


def own_mirror(apt: Path = Path("/etc/apt")) -> str:
    """Return the first Debian mirror that this machine uses.

    Raises RuntimeError when its apt sources name none.
    """
    sources = [
        apt / "sources.list",
        *sorted(apt.glob("sources.list.d/*.list")),
        *sorted(apt.glob("sources.list.d/*.sources")),
    ]
    for source in sources:
        text = source.read_text(encoding="utf-8") if source.is_file() else ""
        found = re.search(r"^(?:URIs:\s*|deb\s+(?:\[[^\]]*\]\s+)?)(\S+://?\S+)", text, re.MULTILINE)
        if found:
            return found.group(1)
    raise RuntimeError(f"no mirror in the apt sources under {apt}")


def bare_root(suite: str = BOOKWORM, architecture: str | None = None) -> Path:
    """Return the root's path; the first call makes it (some minutes), under a lock, so that two sessions make it once.

    Args:
        architecture: Debian's name of another one than this machine's; its programs run under emulation from now on.
    """
    if architecture:
        emulate(architecture)
    digest = hashlib.sha256("\n".join(INCLUDE).encode()).hexdigest()[:12]
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / "-".join(filter(None, (suite, architecture, digest)))
    marker = root / ".complete"
    with (cache / f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if marker.exists():
            return root
        shutil.rmtree(root, ignore_errors=True)
        log = cache / f"{root.name}.log"
        command = [
            "nice",
            "debootstrap",
            "--variant=minbase",
            *([f"--arch={architecture}"] if architecture else []),
            f"--include={','.join(INCLUDE)}",
            suite,
            str(root),
            own_mirror(),
        ]
        with log.open("w") as output:
            made = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
            )
        if made.returncode != 0:
            tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"debootstrap ended with {made.returncode}; end of {log}:\n{tail}")
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
        (root / "var/cache/apt/archives/partial").mkdir(parents=True)
        marker.touch()
    return root
