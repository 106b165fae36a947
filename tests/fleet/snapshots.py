"""Hosts that serve the built-in model from the start: provisioned once by the product as it stands, and kept as a layer over their packages.

Tests whose subject is not the first installation begin with copies of such a host, which boot in seconds and then only start their engine.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.fleet.command_runner import ROOT, CommandRunner
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.layers import FOR_A_USER, root_with
from tests.fleet.machine import take_away
from tests.fleet.root import cache_folder
from tests.fleet.serving import wait_until_healthy

PRODUCT = ("provision", "verify", "playbooks", "requirements")
"""Folders whose files decide what a provisioned host has."""
LAYER = "layer"
COMPLETE = ".complete"
"""A file of each complete snapshot, on which the processes that use it hold a lock."""
_used: list[IO[str]] = []


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
        remove_unused(cache_folder(), but=folder.name)
        if not (folder / COMPLETE).exists():
            _remove(folder)
            folder.mkdir(parents=True)
            made = _make(fleet, folder)
            made.rename(folder / LAYER)
            (folder / COMPLETE).touch()
        _used.append((folder / COMPLETE).open())
        fcntl.flock(_used[-1], fcntl.LOCK_SH)
    return (folder / LAYER, *below)


def remove_unused(cache: Path, *, but: str) -> None:
    """Remove snapshots of other states of the product, unless a process uses them, and what a killed process left of one.

    Args:
        cache: The folder of the snapshots.
        but: The name of the one that stays.
    """
    for folder in cache.glob("serving-*/"):
        if folder.name == but:
            continue
        if (folder / COMPLETE).exists():
            with (folder / COMPLETE).open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
        _remove(folder)


def _remove(folder: Path) -> None:
    for machine in folder.glob("host*"):
        take_away(machine)
    shutil.rmtree(folder, ignore_errors=True)


def state_of(root: Path, below: Sequence[Path]) -> str:
    """Return a digest of the product's files and of the layers below."""
    digest = hashlib.sha256("\n".join(map(str, below)).encode())
    for file in sorted(path for name in PRODUCT for path in (root / name).rglob("*") if path.is_file()):
        name = file.relative_to(root)
        # Programs that other tests run write byte code and hidden caches beside the modules.
        if not any(part == "__pycache__" or part.startswith(".") for part in name.parts):
            digest.update(f"\n{name}\n".encode() + file.read_bytes())
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
