"""Sets of files that programs of this host read: `PREFIX/NAME/current` is a link to the set in use. Runs on any Python from 3.8 on."""

from __future__ import annotations

import os
import shutil

from ansible.module_utils.firstlight_commands import run
from ansible.module_utils.firstlight_files import read, replace_link


class FileSetError(Exception):
    """What stands against the new files, and what helps."""

    def __init__(self, text, hint):
        super().__init__(text)
        self.hint = hint


class FileSet:
    """The files of one purpose: those in use, and the new ones of this run.

    Args:
        prefix: Folder of the installation.
        name: Folder below it, which holds a folder for each set.
        incoming: Folder with the new files.
        digest: Name of the new files.
    """

    def __init__(self, prefix, name, incoming, digest):
        self.prefix, self.incoming, self.digest = prefix, incoming, digest
        self.folder = os.path.join(prefix, name)
        self.current = os.path.join(self.folder, "current")
        self.fresh = os.path.join(self.folder, "new")

    def files(self):
        """Return the new files by name."""
        return {name: read(os.path.join(self.incoming, name)) for name in sorted(os.listdir(self.incoming))}

    def in_use(self):
        """Return the name of the set in use; None where there is none."""
        return os.readlink(self.current) if os.path.islink(self.current) else None

    def name_fresh(self):
        """Give the folder of new files its lasting name, and return it.

        The files in use are not touched, even when new ones have their name because somebody changed them.
        """
        name = self.digest if self.in_use() != self.digest else f"{self.digest}-again"
        shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)
        os.rename(self.fresh, os.path.join(self.folder, name))
        return name

    def use(self, name):
        """Point `current` to a set by its name; None removes the link."""
        if name is None:
            os.unlink(self.current)
        else:
            replace_link(self.current, name)

    def remove_others(self, kept):
        """Remove the folders of all sets except some names."""
        for found in os.listdir(self.folder):
            path = os.path.join(self.folder, found)
            if os.path.isdir(path) and not os.path.islink(path) and found not in kept:
                shutil.rmtree(path)

    def stop_packaged(self, units):
        """Stop units of packages that came with this product: its own units take their place."""
        ours = (read(os.path.join(self.prefix, "installed-packages.txt")) or "").split()
        for unit in units:
            if unit.partition(".")[0] in ours and run("systemctl", "is-enabled", "--quiet", unit)[0] == 0:
                run("systemctl", "disable", "--now", unit)


def require_systemd(runs, hint):
    """Raise FileSetError on a host without systemd. `runs` is what it would keep running."""
    if not os.path.isdir("/run/systemd/system"):
        raise FileSetError(f"this host has no systemd, which keeps {runs} running", hint)
