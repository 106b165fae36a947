#!/usr/bin/python
"""Ansible module: folders and tools of an installation, in one round trip."""

from __future__ import annotations

import base64
import contextlib
import os
import pwd
import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS = {
    "prefix": {"type": "path", "required": True},
    "folders": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "mode": {"type": "str", "required": True},
            "owner": {"type": "str", "default": ""},
        },
    },
    "tools": {"type": "dict", "default": {}},
}
PROTECTED = ("bin", "envs", "etc", "models", "python", "releases")
"""Folders below the prefix: whoever may write to something there decides what is served."""


def ids_of(owner):
    """Return uid and gid that a path must have. An account that does not exist yet matches nothing."""
    if not owner:
        return os.geteuid(), os.getegid()
    try:
        return pwd.getpwnam(owner)[2:4]
    except KeyError:
        return -1, -1


class Layout:
    """Folders and tools, and the paths of those that differ. With `check` nothing is made."""

    def __init__(self, check):
        self._check = check
        self.paths = []

    def _is_made(self, path, *, differs):
        """Note a path that differs. Return whether it is to be made."""
        if differs:
            self.paths.append(path)
        return differs and not self._check

    def folder(self, path, mode, ids):
        there = os.stat(path) if os.path.exists(path) else None
        differs = there is None or (stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid) != (mode, *ids)
        if self._is_made(path, differs=differs):
            os.makedirs(path, exist_ok=True)
            os.chown(path, *ids)
            os.chmod(path, mode)

    def protect(self, folder):
        """Take files and folders from other owners, and the right to change them from others; links have no rights of their own."""
        ids = ids_of("")
        for above, _folders, names in os.walk(folder):
            for path in [above, *(os.path.join(above, name) for name in names)]:
                # The installation of a controller that was killed still ends, and removes files.
                with contextlib.suppress(FileNotFoundError):
                    self._protect(path, os.lstat(path), ids)

    def _protect(self, path, there, ids):
        mode = stat.S_IMODE(there.st_mode)
        is_open = mode & stat.S_IWOTH or there.st_gid != ids[1]
        wanted = mode & ~(stat.S_IWOTH | stat.S_IWGRP) if is_open else mode
        differs = (mode, there.st_uid) != (wanted, ids[0])
        if not stat.S_ISLNK(there.st_mode) and self._is_made(path, differs=differs):
            os.chown(path, *ids)
            os.chmod(path, wanted)

    def tool(self, path, content):
        if self._is_made(path, differs=not os.access(path, os.X_OK) or Path(path).read_bytes() != content):
            with open(f"{path}.new", "wb") as file:
                file.write(content)
            os.chmod(f"{path}.new", 0o755)
            os.replace(f"{path}.new", path)


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    prefix, layout = module.params["prefix"], Layout(module.check_mode)
    for folder in module.params["folders"]:
        path = os.path.join(prefix, folder["name"]).rstrip("/")
        layout.folder(path, int(folder["mode"], 8), ids_of(folder["owner"]))
    for name in PROTECTED:
        layout.protect(os.path.join(prefix, name))
    for name, text in module.params["tools"].items():
        layout.tool(os.path.join(prefix, "bin", name), base64.b64decode(text))
    module.exit_json(changed=bool(layout.paths), paths=layout.paths)


if __name__ == "__main__":
    main()
