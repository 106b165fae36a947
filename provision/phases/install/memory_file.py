"""A file for Ansible that lies on no disk: it is gone with this process, however the process ends."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEFT = "firstlight-*/secrets.yml"
"""Where passwords were once kept while a playbook ran; a run that was killed left it."""


@contextmanager
def memory_file(text: str) -> Iterator[Path]:
    """A path under which processes of this user, and nobody else, read the text while the block lasts."""
    descriptor = os.memfd_create("firstlight", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)  # an executable inventory would be run as a script
        file.write(text)
        file.flush()
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")


def remove_left_passwords() -> None:
    """Remove files with passwords of this user's that runs of an earlier release left when they were killed."""
    for path in Path(tempfile.gettempdir()).glob(LEFT):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == path.parent.lstat().st_uid == os.getuid() and not path.parent.is_symlink():
                path.unlink()
