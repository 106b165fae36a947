#!/usr/bin/python
"""Ansible module: the incoming folder of a host, and which files it lacks; the action of the same name sends them."""

from __future__ import annotations

import os

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS = {
    "folder": {"type": "path", "required": True},
    "owner": {"type": "int", "required": True},
    "files": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "size": {"type": "int", "required": True},
            "makes": {"type": "path", "required": True},
        },
    },
}


def is_lacking(path, file):
    """Return whether a file is needed, and is not in the incoming folder or only in part."""
    if os.path.exists(file["makes"]):
        return False
    return not os.path.isfile(path) or os.path.getsize(path) != file["size"]


def make_folder(path, owner):
    """Create a folder, and those above it that do not exist, for the user who sends files."""
    if not os.path.isdir(path):
        make_folder(os.path.dirname(path), owner)
        os.mkdir(path, 0o700)
        os.chown(path, owner, -1)


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    folder, owner = module.params["folder"], module.params["owner"]
    if os.path.lexists(folder) and (os.path.islink(folder) or os.lstat(folder).st_uid != owner):
        text, hint = f"folder {folder} does not belong to the login user", "remove it if nobody needs what is in it"
        module.fail_json(msg=text, hint=hint)
    paths = {file["name"]: os.path.join(folder, file["name"]) for file in module.params["files"]}
    lacking = [file["name"] for file in module.params["files"] if is_lacking(paths[file["name"]], file)]
    if not module.check_mode:
        for name in lacking:
            make_folder(os.path.dirname(paths[name]), owner)
            if os.path.lexists(paths[name]):  # in part, and perhaps read-only
                os.unlink(paths[name])
    module.exit_json(changed=bool(lacking), lacking=lacking)


if __name__ == "__main__":
    main()
