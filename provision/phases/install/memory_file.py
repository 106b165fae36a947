"""A file for Ansible that is on no disk and disappears with this process, however the process ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_file(text: str) -> Iterator[Path]:
    """Provide a path under which only processes of this user can read the text, while the block lasts."""
    descriptor = os.memfd_create("firstlight", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)  # an executable inventory would be run as a script
        file.write(text)
        file.flush()
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
