"""Sets of files that programs of this host read: `PREFIX/NAME/current` is a link to the set in use. Runs on any Python from 3.8 on."""

from __future__ import annotations

import os
import shutil

from ansible.module_utils.firstlight_host import HostError, diff_result, read, replace_link, run, text_diff


class FileSet:
    """The files of one purpose: those in use, and the new ones of this run.

    A subclass has `matches` (whether all is as it should be), `write_set` and `check` (of a folder with the new files), and `apply`.

    Args:
        prefix: Folder of the installation.
        name: Folder below it, which holds a folder for each set.
        wanted: What is asked for; its `incoming` is the folder with the new files, its `digest` their name.
        timeout_s: Seconds that the programs may take to run with the new files.
    """

    def __init__(self, prefix, name, wanted, timeout_s):
        self.prefix, self.wanted, self.timeout_s = prefix, wanted, timeout_s
        self.incoming, self.digest = wanted["incoming"], wanted["digest"]
        self.folder = os.path.join(prefix, name)
        self.current = os.path.join(self.folder, "current")
        self.fresh = os.path.join(self.folder, "new")

    def files(self):
        """Return the new files by name."""
        return {name: read(os.path.join(self.incoming, name)) for name in sorted(os.listdir(self.incoming))}

    def activate(self, module, shown):
        """Bring the set to what is asked for, and end the module; the difference shows the texts of `shown`, by their paths."""
        entries = [text_diff(path, before, text) for path, text in shown.items() if (before := read(path)) != text]
        try:
            changed = not self.matches()
            if changed and not module.check_mode:
                self.apply()
        except HostError as error:
            module.fail_json(msg=str(error), hint=error.hint)
        finally:
            if not module.check_mode:
                shutil.rmtree(self.incoming, ignore_errors=True)
        module.exit_json(changed=changed, **diff_result(module, entries))

    def take_fresh(self):
        """Write and check the new files, and give their folder its lasting name.

        The files in use are not touched, even when new ones have their name because somebody changed them.

        Returns:
            The names of the set in use, None where there is none, and of the new one.

        Raises:
            HostError: A program refuses the new files.
        """
        self.write_set(self.fresh)
        try:
            self.check(self.fresh)
        except HostError:
            shutil.rmtree(self.fresh)
            raise
        before = os.readlink(self.current) if os.path.islink(self.current) else None
        name = self.digest if before != self.digest else f"{self.digest}-again"
        shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)
        os.rename(self.fresh, os.path.join(self.folder, name))
        return before, name

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
    """Raise HostError on a host without systemd. `runs` is what it would keep running."""
    if not os.path.isdir("/run/systemd/system"):
        raise HostError(f"this host has no systemd, which keeps {runs} running", hint)
