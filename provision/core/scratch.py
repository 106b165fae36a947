"""Temporary folders that leave nothing behind: where a process was killed, the next run of the same account removes its folder."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX, _NEW, _HELD = "firstlight-", "new-firstlight-", ".held"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Provide a folder that only this account can read; it is removed with the block. It has no file but its lock's."""
    made = Path(tempfile.mkdtemp(prefix=_NEW))
    with (made / _HELD).open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        # Only from here on may others take it for one that was left.
        folder = made.rename(made.with_name(made.name.replace(_NEW, _PREFIX, 1)))
        try:
            yield folder
        finally:
            _remove(folder)


def remove_left_folders() -> None:
    """Remove the folders of this account whose processes were killed: the kernel released their locks."""
    for held in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_HELD}"):
        # Another process may remove the same one, or still use it.
        with contextlib.suppress(OSError), open(_opened(held), "rb") as file:
            about = os.fstat(file.fileno())
            if about.st_uid == os.getuid() and stat.S_ISREG(about.st_mode) and not held.parent.is_symlink():
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(held.parent)


def _remove(folder: Path) -> None:
    """Remove a folder, the lock's file last: after a kill during the removal, the next run finds and removes the rest."""
    for entry in folder.glob("[!.]*"):
        shutil.rmtree(entry, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _opened(path: Path) -> int:
    # Whoever may write in the folder of temporary files can make a pipe of this name, on which a plain open waits without end.
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
