"""The size of a folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def folder_bytes(folder: Path) -> int:
    """Return the size of a folder's files in bytes, without the files that links name.

    Args:
        folder: The folder; one that does not exist has no bytes.
    """
    total = 0
    for path, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # another process may rename its files
                total += os.lstat(os.path.join(path, file)).st_size  # noqa: PTH118 - thousands of them
    return total
