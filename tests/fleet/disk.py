"""A separate disk for the files of test hosts: an image without a journal that is deleted as a whole.

Many file systems discard every freed block on their device: there each uninstallation of tens of thousands of files takes a minute, and
so does the removal of each host. Syncs of package managers are cheap here as well, because nothing is read after a crash.
"""

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from shutil import disk_usage  # as it is now: a test may replace that of the module

_SIZE = 128 << 30
"""Bytes of the image, which is sparse: what a plan wants of a server's disk does not depend on the disk of this machine."""
_MOST_LEFT = 1 << 29
"""Bytes of deleted files that an image may hold; to return four gigabytes takes 1.5 s."""
_EVERY_S = 10.0


def attach(folder: Path) -> None:
    """Mount a new image at a folder. If that is impossible, the folder stays unchanged: everything works, but takes longer."""
    folder.mkdir()
    image = _image(folder)
    with image.open("wb") as file:
        file.truncate(_SIZE)
    for words in (
        ("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard", str(image)),
        ("mount", "-o", "loop,nodiscard,nobarrier,noinit_itable", str(image), str(folder)),
    ):
        if shutil.which(words[0]) is None or subprocess.run(words, capture_output=True, check=False).returncode != 0:
            image.unlink()
            return


def trim(folder: Path) -> None:
    """Return the blocks of deleted files to the machine where they are many: the image keeps them until then."""
    if not os.path.ismount(folder):
        return
    if _image(folder).stat().st_blocks * 512 - disk_usage(folder).used > _MOST_LEFT:
        subprocess.run(("fstrim", str(folder)), capture_output=True, check=False)


def link_equal(kept: Path, arrived: Path) -> None:
    """Replace wheels by links to those with their names that arrived whole in another folder of the disk: gigabytes are there once."""
    with contextlib.suppress(FileNotFoundError):  # those of the second folder are removed meanwhile
        for twin in arrived.rglob("*.whl"):
            for file in kept.rglob(twin.name):
                if twin.stat().st_size == file.stat().st_size and not twin.samefile(file):
                    link = file.with_suffix(".link")
                    link.hardlink_to(twin)
                    link.replace(file)


def regularly(work: Callable[[], None]) -> Callable[[], None]:
    """Do something from now on every few seconds, also within a test; what this returns ends it."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(_EVERY_S):
            work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        thread.join()

    return end


def detach(folder: Path) -> None:
    """Unmount and delete the image, if there is one."""
    if os.path.ismount(folder):
        subprocess.run(("umount", str(folder)), check=False)
    if os.path.ismount(folder):
        subprocess.run(("umount", "--lazy", str(folder)), check=True)
    _image(folder).unlink(missing_ok=True)


def _image(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.img")
