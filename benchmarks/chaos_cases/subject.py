"""The host that is disturbed, and the scene that a fault finds when it is made."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fleet.commands import command
from tests.fleet.hosts import Fleet
from tests.fleet.machine import take_away
from tests.fleet.online import connect_to_registries

DISK_BYTES = 16 << 30
"""Five times what an installation needs; the file is sparse."""


class Subject:
    """One booted host, which reaches the package sources of this machine.

    Its /opt is a disk of its own, which can be full or fail without another disk being touched.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        [self.host] = fleet.boot(1)
        self.host.kill()
        # Named as a machine of the fleet, so that it is unmounted and removed with them, also after a kill.
        folder = fleet.disk / f"{self.host.name}-opt"
        folder.mkdir()
        self._image, self.opt = folder / "image", folder / "fs"
        with self._image.open("wb") as file:
            file.truncate(DISK_BYTES)
        command("mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard", str(self._image))
        self.opt.mkdir()
        self._mount()
        options = connect_to_registries(self.host.machine.root)
        self.host.machine.boot(fleet.network.name, *dict.fromkeys(options), f"--bind={self.opt}:/opt")

    def _mount(self) -> None:
        command("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.opt))

    @property
    def port(self) -> str:
        """Return the interface of this machine that leads to the host."""
        [port] = Path("/sys/class/net", self.fleet.network.name, "brif").iterdir()
        return port.name

    def boot(self) -> None:
        """Boot again. A unit that fails while it boots is the product's own, and is what the next run has to repair.

        Raises:
            RuntimeError: The host does not run.
        """
        with contextlib.suppress(RuntimeError):
            self.host.boot()
        self.host.sh("true")

    def repair_disk(self) -> None:
        """Check the file system while the host is off, as an administrator does, and boot again."""
        self.host.kill()
        command("umount", str(self.opt))
        # 1: errors were corrected.
        command("sh", "-c", 'e2fsck -fy "$1" || [ $? -eq 1 ]', "sh", str(self._image), timeout_s=300)
        self._mount()
        self.boot()

    def descendants(self) -> list[int]:
        """Return the numbers that the host's processes have on this machine."""
        leader = self.host.machine.leader
        found: list[int] = []
        todo = [] if leader is None else [leader]
        while todo:
            pid = todo.pop()
            children = _children(pid)
            found += children
            todo += children
        return found

    def remove(self) -> None:
        """Remove the host and its disk."""
        self.host.remove()
        take_away(self.opt.parent)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in children.read_text().split()]
        except OSError:
            continue
    return found


class NotMadeError(Exception):
    """A fault could not be made at this moment."""


@dataclass(frozen=True)
class Scene:
    """The present of a run."""

    subject: Subject
    process: subprocess.Popen[bytes]
    """The controller."""
    start_another: Callable[[], tuple[int, str]]
    """Runs the same command with another folder for its runs, and returns its exit code and what it said of the host."""
    cache: Path
    random: Random
    lasts_s: float
