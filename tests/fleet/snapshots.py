"""Hosts that serve the built-in model from the start: provisioned once by the product as it stands, and kept as a layer over their packages.

Tests whose subject is not the first installation begin with copies of such a host, which boot in seconds and then only start their engine.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fleet.command_runner import ROOT, CommandRunner
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.layers import FOR_A_USER, root_with
from tests.fleet.root import cache_folder
from tests.fleet.serving import wait_until_healthy

PRODUCT = ("provision", "verify", "playbooks", "requirements")
"""Folders whose files decide what a provisioned host has."""
LAYER = "layer"
UNUSED_S = 6 * 3600.0
"""A snapshot of another state of the product is deleted after this time without use."""


def boot_serving(fleet: Fleet, count: int = 1) -> list[FleetHost]:
    """Boot hosts that serve the built-in model as root's installation, and wait until their engines answer."""
    hosts = fleet.boot(count, layers=serving_layers(fleet))
    for host in hosts:
        wait_until_healthy(host)
    return hosts


def serving_layers(fleet: Fleet) -> tuple[Path, ...]:
    """Return the layers of a serving host, the uppermost first; made on the first call, under a lock."""
    below = root_with(FOR_A_USER)
    folder = cache_folder() / f"serving-{state_of(ROOT, below)}"
    with folder.with_name("serving.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            made = _make(fleet, folder)
            made.rename(folder / LAYER)
        (folder / ".complete").touch()
        for other in cache_folder().glob("serving-*/.complete"):
            if time.time() - other.stat().st_mtime > UNUSED_S:
                shutil.rmtree(other.parent)
    return (folder / LAYER, *below)


def state_of(root: Path, below: Sequence[Path]) -> str:
    """Return a digest of the product's files and of the layers below."""
    digest = hashlib.sha256("\n".join(map(str, below)).encode())
    for file in sorted(path for name in PRODUCT for path in (root / name).rglob("*") if path.is_file()):
        if "__pycache__" not in file.parts:
            digest.update(f"\n{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _make(fleet: Fleet, folder: Path) -> Path:
    """Provision a host in a folder; return its layer. It is never copied: the product notices files with another inode or change time."""
    [host] = fleet.boot(packages=FOR_A_USER, folder=folder)
    try:
        ended = CommandRunner(folder / "logs")("provision", "-i", str(host.inventory(folder)))
        assert ended.code == 0, ended.output()
        # The unit stays enabled: copies start it when they boot.
        host.sh("systemctl stop firstlight-vllm.service", timeout_s=180)
    except BaseException:
        host.remove()
        raise
    host.kill()
    host.machine.unmount()
    return host.machine.folder / "upper"
