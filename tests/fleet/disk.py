"""A disk of its own for what test hosts write: an image without a journal, thrown away whole.

Many servers' disks tell their device of every block that is freed: there each uninstall of tens of thousands of files takes a minute, and
so does each host's end. What packages want synced costs little here as well: after a crash nobody reads it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_LARGEST = 128 << 30
_SHARE = 0.9
"""Of what is free: the image is sparse, and must not promise more than there is."""


def attach(folder: Path) -> None:
    """Mount a new image there. Where none can be had, the folder stays as it is: all works, and takes longer."""
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


def trim(folder: Path) -> None:
    """Give the blocks of deleted files back to the machine, which else has them again when the image is deleted."""
    if os.path.ismount(folder):
        subprocess.run(("fstrim", str(folder)), capture_output=True, check=False)


def detach(folder: Path) -> None:
    """Unmount it and delete the image, if there is one."""
    if os.path.ismount(folder):
        subprocess.run(("umount", str(folder)), check=False)
    if os.path.ismount(folder):
        subprocess.run(("umount", "--lazy", str(folder)), check=True)
    _image(folder).unlink(missing_ok=True)


def _image(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.img")
