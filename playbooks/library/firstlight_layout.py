#!/usr/bin/python
"""Ansible module: folders and tools of an installation, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_layout
short_description: Create the folders and write the tools of an installation
description:
  - Creates every folder of an installation with its mode and owner, and writes the tools that run on the host.
  - One round trip for all of them. A task each would cost a second or two per host.
options:
  prefix:
    description: Absolute folder that holds everything of this product on the host.
    type: path
    required: true
  folders:
    description: Folders below the prefix.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Path below the prefix; empty for the prefix itself.
        type: str
        required: true
      mode:
        description: Permissions, octal.
        type: str
        required: true
      owner:
        description: Account that owns the folder, with its primary group; empty for the account that Ansible uses.
        type: str
        default: ""
  tools:
    description: Name of each tool and its content, in base64. Tools are written to PREFIX/bin.
    type: dict
    default: {}
author: Firstlight
"""

EXAMPLES = r"""
- name: Create folders and write tools
  firstlight_layout:
    prefix: /opt/firstlight
    folders:
      - {name: "", mode: "755"}
      - {name: run, mode: "755", owner: firstlight}
    tools:
      verify.pyz: "{{ query('ansible.builtin.pipe', 'base64 < verify.pyz') | first }}"
"""

RETURN = r"""
paths:
  description: Folders and tools that differed.
  type: list
  elements: str
  returned: always
"""

import base64
import hashlib
import os
import pwd
import stat

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_files import diff_result, list_diff

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


def ids_of(owner):
    """Return uid and gid that a path must have. An account that does not exist yet matches nothing."""
    if not owner:
        return os.geteuid(), os.getegid()
    try:
        entry = pwd.getpwnam(owner)
    except KeyError:
        return -1, -1
    return entry.pw_uid, entry.pw_gid


def describe_folder(path):
    """Return a folder's mode and owner as text; empty where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return ""
    kind = "folder" if stat.S_ISDIR(found.st_mode) else "file"
    return f"{path} {kind} {stat.S_IMODE(found.st_mode):o} {found.st_uid}:{found.st_gid}"


def make_folder(path, mode, ids):
    os.makedirs(path, exist_ok=True)
    os.chown(path, *ids)
    os.chmod(path, mode)


def describe_tool(path):
    """Return a tool's hash and whether it can be executed; empty where there is none."""
    try:
        with open(path, "rb") as file:
            return tool_line(path, file.read(), executable=os.access(path, os.X_OK))
    except FileNotFoundError:
        return ""


def tool_line(path, content, executable=True):
    return f"{path} {'executable' if executable else 'file'} sha256:{hashlib.sha256(content).hexdigest()}"


def write_tool(path, content):
    temporary = f"{path}.new"
    with open(temporary, "wb") as file:
        file.write(content)
    os.chmod(temporary, 0o755)
    os.replace(temporary, path)


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    prefix, paths, before, after = module.params["prefix"], [], [], []
    for folder in module.params["folders"]:
        path = os.path.join(prefix, folder["name"]).rstrip("/")
        mode, ids = int(folder["mode"], 8), ids_of(folder["owner"])
        found, wanted = describe_folder(path), f"{path} folder {mode:o} {ids[0]}:{ids[1]}"
        if found != wanted:
            paths.append(path)
            before.append(found)
            after.append(wanted)
            if not module.check_mode:
                make_folder(path, mode, ids)
    for name, text in module.params["tools"].items():
        path, content = os.path.join(prefix, "bin", name), base64.b64decode(text)
        found, wanted = describe_tool(path), tool_line(path, content)
        if found != wanted:
            paths.append(path)
            before.append(found)
            after.append(wanted)
            if not module.check_mode:
                write_tool(path, content)
    diff = [list_diff("folders and tools", [line for line in before if line], after)]
    module.exit_json(changed=bool(paths), paths=paths, **diff_result(module, diff))


if __name__ == "__main__":
    main()
