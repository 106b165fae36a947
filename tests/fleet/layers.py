"""Debian packages over the bare root: installed once and kept as a layer of an overlay, under a key of its content."""

import fcntl
import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.fleet.online import connect_to_registries
from tests.fleet.root import BOOKWORM, TRIXIE, bare_root

RPM_TOOLS = ("dnf", "rpm", "createrepo-c", "gpg", "gpg-agent")
"""Packages with which Debian installs packages as the RHEL family does."""
FOR_A_USER = ("libpam-systemd", "libnuma1", "g++", "python3-dev")
"""Packages that an administrator installs for a user without root whose service must outlive the session."""
DRIVER_LIBRARIES = ("libcuda1", "libnvidia-ml1")
"""The user space of NVIDIA's driver, of Debian's section non-free."""

_INSTALL = """
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/fs"
cd / && root=$2/fs && shift 2
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
chroot "$root" apt-get -qq update
exec chroot "$root" apt-get -qq -y --no-install-recommends install "$@"
"""
_OURS = ("etc/apt", "etc/pip.conf", "etc/environment", "etc/resolv.conf", "var/lib/apt/lists", "var/cache/apt")
"""Files that only the installation needed: the access to this machine's registries, and downloads."""


def root_with(packages: Sequence[str], suite: str = BOOKWORM, architecture: str | None = None) -> tuple[Path, ...]:
    """The layers of a root that holds these packages, the uppermost first; made on the first call, under a lock."""
    bare = bare_root(suite, architecture)
    if not packages:
        return (bare,)
    digest = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:12]
    folder = bare.with_name(f"{bare.name}-{digest}")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, bare, packages)
            (folder / ".complete").touch()
    return (folder / "upper", bare)


def _make(folder: Path, bare: Path, packages: Sequence[str]) -> None:
    for part in ("fs", "work", "upper/etc/apt"):
        (folder / part).mkdir(parents=True)
    connect_to_registries(folder / "upper")
    _offer_all_sections(folder / "upper/etc/apt")
    # In a mount namespace of its own, so that a killed process leaves nothing mounted.
    command = ["unshare", "--mount", "sh", "-ec", _INSTALL, "sh", str(bare), str(folder), *packages]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{', '.join(packages)} cannot be installed into a root:\n{done.stderr[-2000:]}")
    for name in _OURS:
        path = folder / "upper" / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _offer_all_sections(apt: Path) -> None:
    """Debian's sections beside `main`: the user libraries of NVIDIA's driver are in one of them."""
    for source in (*apt.glob("sources.list*"), *apt.glob("sources.list.d/*")):
        text = source.read_text(encoding="utf-8") if source.is_file() else ""
        if re.search(rf" ({BOOKWORM}|{TRIXIE})\b", text):
            source.write_text(re.sub(r"(?m)^(Components:|deb .*) main$", r"\1 main contrib non-free", text))
