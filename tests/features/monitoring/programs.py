"""Programs of Debian's packages for monitoring, unpacked beside the system: their services are never installed here."""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

from tests.fleet.root import cache_folder
from tests.required import do_without

PACKAGES = (
    "prometheus",
    "prometheus-alertmanager",
    "prometheus-blackbox-exporter",
    "prometheus-node-exporter",
)


def program(name: str) -> str:
    """Return the path of a program of these packages: promtool, prometheus, amtool ...

    Without apt, or where the packages cannot be had, the test is skipped; with FIRSTLIGHT_REQUIRE_FLEET=1 it fails.
    """
    path = _unpacked() / "usr/bin" / name
    assert path.exists(), f"{', '.join(PACKAGES)} have no program {name}"
    return str(path)


def _unpacked() -> Path:
    digest = hashlib.sha256("\n".join(PACKAGES).encode()).hexdigest()[:12]
    folder = cache_folder() / f"monitoring-{digest}"
    cache_folder().mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _unpack(folder)
            (folder / ".complete").touch()
    return folder


def _unpack(folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        do_without("this machine has no apt and dpkg-deb")
    archives = folder / "archives"
    archives.mkdir(parents=True)
    got = subprocess.run(
        ["apt-get", "-qq", "download", *PACKAGES], cwd=archives, capture_output=True, text=True, check=False
    )
    if got.returncode != 0:
        do_without(f"packages for monitoring cannot be downloaded: {got.stderr.strip()[-300:]}")
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", archive, folder], check=True, capture_output=True)
    shutil.rmtree(archives)
