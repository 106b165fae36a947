"""Faults of the host and of its network."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos_cases.on_controller import LARGE, flip
from benchmarks.chaos_cases.subject import NotMadeError, Scene
from tests.fleet.commands import command

INCOMING = "var/tmp/firstlight-0"
SLOW_RATE = "4mbit"
MEMORY_LIMIT = 1 << 20
"""Bytes that all processes together may take from then on: soon one asks for more, and the kernel kills the largest of them."""
_LAST_BYTES = 16 << 20
"""Of a full disk: written byte by byte, because a file system keeps some blocks for the list of a large file's blocks."""
_GROUP = Path("/sys/fs/cgroup/memory/firstlight-chaos")
_ARRIVES_S = 10.0
_DIES_S = 0.5
_HOLD_APT = """
import fcntl, sys, time
locks = [open(path, "w") for path in ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock")]
for lock in locks:
    fcntl.lockf(lock, fcntl.LOCK_EX)
time.sleep(float(sys.argv[1]))
"""


@contextmanager
def network_cut(scene: Scene) -> Iterator[str]:
    """Take the host off the network without a word to either side."""
    port = scene.subject.port
    command("ip", "link", "set", port, "down")
    try:
        yield f"for {scene.lasts_s} s"
    finally:
        command("ip", "link", "set", port, "up")


@contextmanager
def slow_link(scene: Scene) -> Iterator[str]:
    """Limit the rate in both directions."""
    limit = ("root", "tbf", "rate", SLOW_RATE, "burst", "32kbit", "latency", "400ms")
    inside = ("nsenter", "--target", str(scene.subject.host.machine.leader), "--net")
    ends = (((), scene.subject.port), (inside, "host0"))
    try:
        for within, name in ends:
            command(*within, "tc", "qdisc", "add", "dev", name, *limit)
        yield f"{SLOW_RATE} for {scene.lasts_s} s"
    finally:
        for within, name in ends:
            command(*within, "tc", "qdisc", "del", "dev", name, "root", check=False)


@contextmanager
def power_loss(scene: Scene) -> Iterator[str]:
    """End all processes of the host at once."""
    scene.subject.host.kill()
    try:
        yield f"off for {scene.lasts_s} s"
    finally:
        scene.subject.boot()


@contextmanager
def disk_full(scene: Scene) -> Iterator[str]:
    """Leave no free byte where the installation is."""
    filler = scene.subject.opt / "filler"
    free = shutil.disk_usage(scene.subject.opt).free
    command("fallocate", "--length", str(free - _LAST_BYTES), str(filler))
    command("sh", "-c", 'cat /dev/zero >> "$1"', "sh", str(filler), check=False)
    try:
        yield "no byte free below /opt"
    finally:
        filler.unlink(missing_ok=True)


@contextmanager
def read_only_disk(scene: Scene) -> Iterator[str]:
    """Let the file system find an error, after which the kernel lets nobody write to it."""
    device = command("findmnt", "--noheadings", "--output", "SOURCE", str(scene.subject.opt)).strip()
    Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("chaos", encoding="ascii")
    try:
        yield "an error of the file system below /opt"
    finally:
        scene.subject.repair_disk()


def restart_sshd(scene: Scene) -> str:
    """Restart sshd and end all its connections."""
    scene.subject.host.sh("systemctl restart ssh; pkill -KILL -f '^sshd: [^/]' || true")
    return "all connections ended"


@contextmanager
def apt_lock(scene: Scene) -> Iterator[str]:
    """Hold the locks of dpkg and apt, as an unattended upgrade does."""
    holder = f"python3 -c '{_HOLD_APT}' {scene.lasts_s}"
    scene.subject.host.sh(f"systemd-run --quiet --collect --unit=chaos-apt {holder}")
    try:
        yield f"for {scene.lasts_s} s"
    finally:
        scene.subject.host.sh("systemctl stop chaos-apt", check=False)


def corrupt_arrived(scene: Scene) -> str:
    """Change a byte of a wheel that has arrived."""
    folder = scene.subject.host.machine.root / INCOMING
    deadline = time.monotonic() + _ARRIVES_S
    while time.monotonic() < deadline and scene.process.poll() is None:
        arrived = sorted(path for path in folder.glob("*.whl") if path.stat().st_size >= LARGE)
        if arrived:
            wheel = scene.random.choice(arrived)
            flip(wheel, scene.random, keeps_time=False)
            return wheel.name
        time.sleep(0.05)
    raise NotMadeError("no wheel was in the incoming folder")


@contextmanager
def out_of_memory(scene: Scene) -> Iterator[str]:
    """Give the processes of the host no more memory: when one asks for some, the kernel kills the largest."""
    before = _commands(scene)
    _GROUP.mkdir(exist_ok=True)
    try:
        (_GROUP / "memory.limit_in_bytes").write_text(str(MEMORY_LIMIT), encoding="ascii")
        for pid in before:
            with contextlib.suppress(OSError):  # it has ended
                (_GROUP / "cgroup.procs").write_text(str(pid), encoding="ascii")
        if not _has_killed(scene.lasts_s):
            raise NotMadeError(f"none of {len(before)} processes asked for memory in {scene.lasts_s} s")
        time.sleep(_DIES_S)
    finally:
        _end_group()
    ended = sorted(set(before) - set(_commands(scene)), key=lambda pid: before[pid], reverse=True)
    yield f"killed: {before[ended[0]][1]}" if ended else "killed: a process that began since"


def _commands(scene: Scene) -> dict[int, tuple[int, str]]:
    """Return the pages in memory and the beginning of the command line of each process of the host."""
    found = {}
    for pid in scene.subject.descendants():
        with contextlib.suppress(OSError):  # it has ended
            pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if pages:
                found[pid] = pages, words[:80].strip()
    return found


def _has_killed(within_s: float) -> bool:
    """Wait until the kernel has killed a process of the group; return whether it has."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        counts = dict(line.split() for line in (_GROUP / "memory.oom_control").read_text(encoding="ascii").splitlines())
        if int(counts.get("oom_kill", "0")):
            return True
        time.sleep(0.02)
    return False


def _end_group() -> None:
    for left in (_GROUP / "cgroup.procs").read_text(encoding="ascii").split():
        with contextlib.suppress(OSError):
            (_GROUP.parent / "cgroup.procs").write_text(left, encoding="ascii")
    with contextlib.suppress(OSError):
        _GROUP.rmdir()
