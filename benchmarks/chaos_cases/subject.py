"""The host that is disturbed. Its /opt is a disk of its own, which can be full or fail without another disk being touched."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from tests.fleet.commands import command
from tests.fleet.hosts import Fleet
from tests.fleet.machine import take_away
from tests.fleet.online import connect_to_registries

DISK_BYTES = 16 << 30
"""Five times what an installation needs; the file is sparse."""
_LAST_BYTES = 16 << 20
"""Written byte by byte, because a file system keeps some blocks for the list of a large file's blocks."""


class Subject:
    """One booted host, which reaches the package sources of this machine."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        [self.host] = fleet.boot(1)
        self.host.kill()
        # Named as a machine of the fleet, so that it is unmounted and removed with them, also after a kill.
        folder = fleet.disk / f"{self.host.name}-opt"
        folder.mkdir()
        self._image, self._opt = folder / "image", folder / "fs"
        with self._image.open("wb") as file:
            file.truncate(DISK_BYTES)
        command("mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard", str(self._image))
        self._opt.mkdir()
        self._mount()
        options = connect_to_registries(self.host.machine.root)
        self.host.machine.boot(fleet.network.name, *dict.fromkeys(options), f"--bind={self._opt}:/opt")

    def _mount(self) -> None:
        command("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self._opt))

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

    def fill_disk(self) -> None:
        """Leave no free byte on the disk of /opt."""
        free = shutil.disk_usage(self._opt).free
        command("fallocate", "--length", str(free - _LAST_BYTES), str(self._opt / "filler"))
        command("sh", "-c", 'cat /dev/zero >> "$1"', "sh", str(self._opt / "filler"), check=False)

    def empty_disk(self) -> None:
        """Give the space back."""
        (self._opt / "filler").unlink(missing_ok=True)

    def fail_disk(self) -> None:
        """Let the file system of /opt find an error, after which the kernel lets nobody write to it."""
        device = command("findmnt", "--noheadings", "--output", "SOURCE", str(self._opt)).strip()
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("chaos", encoding="ascii")

    def repair_disk(self) -> None:
        """Check the file system while the host is off, as an administrator does, and boot again."""
        self.host.kill()
        command("umount", str(self._opt))
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
        take_away(self._opt.parent)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in children.read_text().split()]
        except OSError:
            continue
    return found
