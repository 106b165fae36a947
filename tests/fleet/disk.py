"""A separate disk for the files of test hosts: an image without a journal that is deleted as a whole.

Many file systems discard every freed block on their device: there each uninstallation of tens of thousands of files takes a minute, and
so does the removal of each host. Syncs of package managers are cheap here as well, because nothing is read after a crash.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_LARGEST = 128 << 30
AMPLE = 32 << 30
"""Free bytes with which hosts are booted as they are: the largest test needs 25 GiB, and another process boots hosts too."""
_SHARE = 0.9
"""The share of the free space: the image is sparse and must not be larger than the free space."""


def attach(folder: Path) -> None:
    """Mount a new image at a folder. If that is impossible, the folder stays unchanged: everything works, but takes longer."""
    folder.mkdir()
    image = _image(folder)
    with image.open("wb") as file:
        file.truncate(min(_LARGEST, int(shutil.disk_usage(folder).free * _SHARE)))
    for words in (
        ("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard", str(image)),
        ("mount", "-o", "loop,nodiscard,nobarrier", str(image), str(folder)),
    ):
        if shutil.which(words[0]) is None or subprocess.run(words, capture_output=True, check=False).returncode != 0:
            image.unlink()
            return


def trim(folder: Path, *, ample: int | None = None) -> None:
    """Return the blocks of deleted files to the machine before the image is deleted.

    Args:
        folder: Where the image is mounted.
        ample: Free bytes of the machine with which nothing is done.
    """
    if ample is not None and shutil.disk_usage(folder.parent).free >= ample:
        return
    if os.path.ismount(folder):
        subprocess.run(("fstrim", str(folder)), capture_output=True, check=False)


def detach(folder: Path) -> None:
    """Unmount and delete the image, if there is one."""
    if os.path.ismount(folder):
        subprocess.run(("umount", str(folder)), check=False)
    if os.path.ismount(folder):
        subprocess.run(("umount", "--lazy", str(folder)), check=True)
    _image(folder).unlink(missing_ok=True)


def _image(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.img")
