"""Sets of files that programs of this host read: `PREFIX/NAME/current` is a link to the set in use. Runs on any Python from 3.8 on."""

from __future__ import annotations

import os
import shutil

from ansible.module_utils.firstlight_host import HostError, diff_result, read, replace_link, run, text_diff, write
from ansible.module_utils.firstlight_unit import record_unit


class FileSet:
    """The files of one purpose below PREFIX/NAME; the new ones of this run lie in `incoming` of what is `wanted`.

    A subclass has `matches` (whether all is as it should be), `write_set` and `check` (of a folder with the new files), and `apply`.
    """

    def __init__(self, prefix, name, wanted, timeout_s):
        self.prefix, self.wanted, self.timeout_s = prefix, wanted, timeout_s
        self.incoming, self.digest = wanted["incoming"], wanted["digest"]  # the digest names the new files
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
        """Write and check the new files, and return the names of the set in use (or None) and of the new one.

        The files in use are not touched, even when new ones have their name because somebody changed them.
        """
        shutil.rmtree(self.fresh, ignore_errors=True)
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

    def write_units(self, units):
        """Write units by path; None removes one."""
        for path, text in units.items():
            if text is not None:
                record_unit(self.prefix, path)
                write(path, text)
            elif os.path.exists(path):
                os.unlink(path)
        run("systemctl", "daemon-reload")

    def stop_packaged(self, units):
        """Stop units of packages that came with this product: its own units take their place."""
        ours = (read(os.path.join(self.prefix, "installed-packages.txt")) or "").split()
        for unit in units:
            if unit.partition(".")[0] in ours and is_unit("enabled", unit):
                run("systemctl", "disable", "--now", unit)


def is_unit(state, name):
    """Return whether a unit is `active`, or `enabled`."""
    return run("systemctl", f"is-{state}", "--quiet", name)[0] == 0


def log_of(unit, lines):
    """Return the newest lines of a unit's log."""
    return run("journalctl", "-u", unit, "-n", str(lines), "-o", "cat", "--no-pager")[1]


def require_systemd(runs, hint):
    """Raise HostError on a host without systemd. `runs` is what it would keep running."""
    if not os.path.isdir("/run/systemd/system"):
        raise HostError(f"this host has no systemd, which keeps {runs} running", hint)
