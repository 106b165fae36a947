#!/usr/bin/python
"""Ansible module: the files of a model, moved into place with their hashes checked."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import zlib

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_host import HostError, replace_link, run, take_turn, write
from ansible.module_utils.firstlight_releases import load_json

ARGUMENTS = {
    "folder": {"type": "path", "required": True},
    "incoming": {"type": "path", "required": True},
    "model": {"type": "dict", "required": True},
    "reader": {"type": "str"},
    "unit": {"type": "str", "default": ""},
}
MARKER = ".complete"
HIDDEN = {
    "ProtectHome=yes": ("/home", "/root", "/run/user"),
    "PrivateTmp=yes": ("/tmp", "/var/tmp"),  # noqa: S108 - nothing is written there
}
"""Folders that the service does not see, by the setting of its unit: systemd.exec(5)."""
TURN_S = 900
"""Seconds to wait for what an interrupted run left running."""


def digests(path):
    """Return SHA-256 and CRC-32 of a file, read once."""
    sha256, crc = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            sha256.update(chunk)
            crc = zlib.crc32(chunk, crc)
    return sha256.hexdigest(), f"{crc:08x}"


def mark_of(path):
    """Return size, times of content and inode, and inode number; None where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def is_there(file, incoming, folder, checked, on_host=None):
    """Return whether a file is in place as it was checked, and no newer one was sent."""
    entry, target = checked.get(file["name"], {}), os.path.join(folder, file["name"])
    mark = mark_of(target)
    if on_host:
        sent = not os.path.islink(target) or os.readlink(target) != os.path.join(on_host, file["name"])
    else:
        sent = os.path.exists(os.path.join(incoming, file["name"]))
    return not sent and mark is not None and entry.get("mark") == mark and entry["sha256"] == file["sha256"]


def move_file(file, incoming, folder):
    """Move a file into place. Return its entry of the record, and whether it was not there before."""
    source, target = os.path.join(incoming, file["name"]), os.path.join(folder, file["name"])
    part, text = target + ".part", f"is not in {incoming}"
    if os.path.exists(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.move(source, part)
    if os.path.exists(part):
        found, crc = digests(part)
        if found == file["sha256"]:
            os.chown(part, os.geteuid(), os.getegid())  # the login sent it, and must not change what is served
            os.chmod(part, 0o644)
            os.replace(part, target)
            if os.path.exists(part):  # two names of one file: nothing was replaced
                os.unlink(part)
            return {"sha256": found, "crc32": crc, "mark": mark_of(target)}, True
        os.unlink(part)  # damaged, or of another model that was sent and never taken
        text = f"has SHA-256 {found}, not {file['sha256']}"
    if os.path.exists(target):
        found, crc = digests(target)
        if found == file["sha256"]:
            return {"sha256": found, "crc32": crc, "mark": mark_of(target)}, False
        text = f"is damaged: it has SHA-256 {found}, not {file['sha256']}"
    raise HostError(f"model file {file['name']} {text}", "run ./firstlight provision: it sends what is missing")


def link_file(file, on_host, folder, reader):
    """Link a file from another folder of the host. Return its entry of the record."""
    source, target = os.path.join(on_host, file["name"]), os.path.join(folder, file["name"])
    if not os.path.isfile(source):
        text = f"model file {file['name']} is not in {on_host}"
        raise HostError(text, "complete the model there, or leave firstlight_model_on_host out: then it is sent")
    if reader and not is_readable(source, reader):
        text = f"{source} cannot be read by account {reader}, which the service runs as"
        raise HostError(text, "let others read the file, and search its folders: chmod -R o+rX")
    found, crc = digests(source)
    if found != file["sha256"]:
        text = f"{source} has SHA-256 {found}, not {file['sha256']}"
        raise HostError(text, "it is another revision or damaged; firstlight_model names what is expected")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    replace_link(target, source)
    return {"sha256": found, "crc32": crc, "mark": mark_of(target)}


def refuse_hidden(files, on_host, unit):
    """Fail where a file of the host is in a folder that the unit hides from the service; links may lead there."""
    folders = {folder: setting for setting, each in HIDDEN.items() if setting in unit for folder in each}
    for source in (os.path.join(on_host, file["name"]) for file in files):
        real = os.path.realpath(source)
        for folder, setting in folders.items():
            if real.startswith(f"{folder}/"):
                text = f"{source} is {real}, and the service sees no file below {folder}"
                # A unit that is planned for a folder of this name shows home directories.
                named = f" or name their folder below {folder}" if setting.startswith("ProtectHome") else ""
                raise HostError(text, f"firstlight_model_on_host: move the files out of {folder}{named}")


def is_readable(path, account):
    """Return whether an account can read a file, tried by a program of that account."""
    group = str(pwd.getpwnam(account).pw_gid)
    words = ["setpriv", "--reuid", account, "--regid", group, "--init-groups", "head", "-c", "1", path]
    return run(*words)[0] == 0


def other_files(folder, files):
    """Return files in the folder that do not belong to the model, by their path below it."""
    kept = {MARKER, *(file["name"] for file in files), *(f"{file['name']}.part" for file in files)}
    paths = [os.path.join(parent, name) for parent, _folders, names in os.walk(folder) for name in names]
    return sorted({os.path.relpath(path, folder) for path in paths} - kept)


def take_files(files, missing, folder, checked, take):
    """Take what is missing, remove what does not belong, write the manifest. Return names of the files that changed."""
    changed = []
    for file in missing:
        checked.pop(file["name"], None)  # until it is taken again: what the record lacks is sent by the next run
        try:
            checked[file["name"]], is_new = take(file)
        finally:
            if os.path.exists(folder):  # without a file of its own it stays away
                write(os.path.join(folder, MARKER), json.dumps(checked))
        changed += [file["name"]] if is_new else []
    for name in other_files(folder, files):
        os.unlink(os.path.join(folder, name))
        changed.append(name)
    names = sorted(file["name"] for file in files)
    lines = [f"{checked[name]['crc32']} {checked[name]['mark'][0]} {name}\n" for name in names]
    write(f"{folder}.manifest.txt", "".join(lines))
    return changed


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    folder, incoming, model = (module.params[name] for name in ("folder", "incoming", "model"))
    files, on_host, reader = model.get("files") or [], model.get("on_host"), module.params["reader"]

    def take(file):
        return (link_file(file, on_host, folder, reader), True) if on_host else move_file(file, incoming, folder)

    try:
        if on_host:
            refuse_hidden(files, on_host, module.params["unit"])
        if not module.check_mode:
            os.umask(0o022)  # the service's account goes through the folders
            for parent, _folders, _files in os.walk(folder):
                os.chmod(parent, 0o755)
            take_turn(os.path.join(os.path.dirname(folder), ".lock"), TURN_S)
        checked = load_json(folder, MARKER)
        missing = [file for file in files if not is_there(file, incoming, folder, checked, on_host)]
        if module.check_mode:
            changed = [file["name"] for file in missing] + other_files(folder, files)
        else:
            changed = take_files(files, missing, folder, checked, take)
    except HostError as error:
        module.fail_json(msg=str(error), hint=error.hint)
    except OSError as error:
        module.fail_json(msg=f"the files of model {folder} cannot be put in place: {error}")
    module.exit_json(changed=bool(changed), files=changed)


if __name__ == "__main__":
    main()
