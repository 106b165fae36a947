"""Makes the folders and tools of an installation as they must be; says what differed, as JSON.

Standard input: {"prefix", "folders": [{"name", "mode", "owner"}], "tools": {name: base64}}. An empty owner is the
caller. With `look` nothing is written.
"""

import base64
import json
import os
import pwd
import stat
import sys


def identity(owner):
    """The uid and gid that a path must have; an account that is not there yet matches nothing."""
    if not owner:
        return os.geteuid(), os.getegid()
    try:
        entry = pwd.getpwnam(owner)
    except KeyError:
        return -1, -1
    return entry.pw_uid, entry.pw_gid


def folder_differs(path, mode, ids):
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return True
    return not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) != mode or (found.st_uid, found.st_gid) != ids


def make_folder(path, mode, ids):
    os.makedirs(path, exist_ok=True)
    os.chown(path, *ids)
    os.chmod(path, mode)


def tool_differs(path, content):
    try:
        with open(path, "rb") as file:
            return file.read() != content or not os.access(path, os.X_OK)
    except FileNotFoundError:
        return True


def write_tool(path, content):
    temporary = f"{path}.new"
    with open(temporary, "wb") as file:
        file.write(content)
    os.chmod(temporary, 0o755)
    os.replace(temporary, path)


def main():
    make = sys.argv[1] == "make"
    wanted = json.load(sys.stdin)
    changed = []
    for folder in wanted["folders"]:
        path = os.path.join(wanted["prefix"], folder["name"]).rstrip("/")
        mode, ids = int(folder["mode"], 8), identity(folder["owner"])
        if folder_differs(path, mode, ids):
            changed.append(path)
            if make:
                make_folder(path, mode, ids)
    for name, text in wanted["tools"].items():
        path, content = os.path.join(wanted["prefix"], "bin", name), base64.b64decode(text)
        if tool_differs(path, content):
            changed.append(path)
            if make:
                write_tool(path, content)
    print(json.dumps({"changed": changed}))


main()
