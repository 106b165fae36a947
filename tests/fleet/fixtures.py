"""Fixtures for the fleet. If hosts cannot be booted, tests report it clearly; with FIRSTLIGHT_REQUIRE_FLEET=1 that is a failure."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from tests.fleet import emulation
from tests.fleet.hosts import Fleet, FleetHost, remove_leftovers
from tests.fleet.root import cache_folder

_PROGRAMS = ("systemd-nspawn", "debootstrap", "ip", "nft", "nsenter", "ssh-keygen", "ssh", "mount")


def impossible() -> str | None:
    """Return why this machine cannot boot test hosts; None if it can."""
    if os.geteuid() != 0:
        return "test hosts want root"
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"test hosts want {', '.join(missing)} (Debian: systemd-container, debootstrap, iproute2, nftables, openssh-client)"
    probe = ("unshare", "--mount", "--pid", "--net", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        return "this machine may not make namespaces and mounts: a container without those rights"
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        for name in ("lower", "upper", "work", "fs"):
            Path(folder, name).mkdir()
        layers = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        overlay = ("unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", layers, f"{folder}/fs")
        if subprocess.run(overlay, capture_output=True, check=False).returncode != 0:
            return f"overlays cannot be mounted in {cache_folder()}: it lies on an overlay itself, as in a container"
    return None


def require_hosts(architecture: str | None = None) -> None:
    """Skip the test with the reason if this machine cannot boot hosts (of another architecture); with FIRSTLIGHT_REQUIRE_FLEET=1 fail it."""
    reason = impossible() or (emulation.why_not(architecture) if architecture else None)
    if reason is not None:
        if os.environ.get("FIRSTLIGHT_REQUIRE_FLEET") == "1":
            pytest.fail(f"the fleet is required and cannot be booted: {reason}")
        _say(f"SKIPPED: {reason}")
        pytest.skip(reason)


def _say(text: str) -> None:
    print(f"\nfleet: {text}", file=sys.__stderr__, flush=True)


def _terminated(number: int, frame: FrameType | None) -> None:
    del frame
    # Unlike the default, this lets fixtures remove the hosts.
    pytest.exit(f"signal {number}", returncode=128 + number)


_booted: list[Fleet] = []
"""The fleet of this process while there is one."""
JOURNAL_LINES = 40


def booted() -> Sequence[Fleet]:
    """Return the fleet of this process, if there is one."""
    return _booted


def end_of_journals() -> list[tuple[str, str]]:
    """Return titles and texts: the free disk of this machine, and for each host that runs what its services said of errors and the end of its journal.

    The last host that was booted comes first.
    """
    free = f"{shutil.disk_usage(cache_folder()).free >> 20} MiB are free"
    errors = f"journalctl --no-pager -u 'firstlight*' -g error -n {JOURNAL_LINES}"
    journals = [
        (f"journal of {host.name}", host.sh(f"{errors}; journalctl --no-pager -n {JOURNAL_LINES}", check=False))
        for fleet in _booted
        for host in reversed(fleet.hosts)
        if host.machine.leader is not None
    ]
    return [("disk of this machine", free), *journals]


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Boots hosts: `fleet.boot(3)`; those of a file are removed after it (tests/fleet/conftest.py), the others at the end, whatever happens."""
    require_hosts()
    remove_leftovers(_say)
    before = {number: signal.signal(number, _terminated) for number in (signal.SIGTERM, signal.SIGHUP)}
    made = Fleet()
    _booted.append(made)
    try:
        yield made
    finally:
        _booted.clear()
        made.remove()
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def pair(fleet: Fleet) -> list[FleetHost]:
    """Two hosts that tests share; a test that damages one repairs it or boots its own."""
    fleet.shared = fleet.boot(2)
    return fleet.shared


@pytest.fixture
def wheels_for_once(fleet: Fleet) -> Iterator[Path]:
    """A temporary cache on the disk, for gigabytes of wheels that no other test needs."""
    with _temporary_cache(fleet) as folder:
        yield folder


@pytest.fixture(scope="module")
def wheels_for_file(fleet: Fleet) -> Iterator[Path]:
    """The same for all tests of a file."""
    with _temporary_cache(fleet) as folder:
        yield folder


@contextmanager
def _temporary_cache(fleet: Fleet) -> Iterator[Path]:
    folder = fleet.disk / "wheels"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRSTLIGHT_CACHE", str(folder))
        yield folder
    shutil.rmtree(folder)
