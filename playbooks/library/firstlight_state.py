#!/usr/bin/python
"""Ansible module: the record of the state that a host reached."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_state
short_description: Record the state that a host reached, and remove what it no longer needs
description:
  - Writes, in this order, C(etc/started) (what the running service was started from), the files that the next probe
    compares, and C(state.json). A host has the desired state only when C(state.json) says so.
  - The next probe compares C(state.sha256) (small files that everybody may read, for C(sha256sum -c)), C(state.files) (secrets
    and large files; columns are mode, uid, gid, size, time of modification, time of change, path; C(-) is not compared),
    and C(state.unit) (the unit as systemd would start it).
  - Removes environments and interpreters that neither C(current) nor C(previous) needs, and units of earlier releases.
options:
  prefix:
    description: Absolute folder that holds everything of this product on the host.
    type: path
    required: true
author: Firstlight
"""

EXAMPLES = r"""
- name: Record the state that was reached
  firstlight_state:
    prefix: /opt/firstlight
"""

RETURN = r"""
paths:
  description: Files that were written, and files and folders that were removed.
  type: list
  elements: str
  returned: always
"""

import hashlib
import json
import os
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_files import diff_result, read, text_diff, write
from ansible.module_utils.firstlight_releases import linked, request_of, service_of
from ansible.module_utils.firstlight_unit import find_hooks, unit_properties

ARGUMENTS = {"prefix": {"type": "path", "required": True}}
FOLDERS = ("", "bin", "envs", "etc", "models")
"""Below the prefix: whoever may write there may change what is served."""


class Changes:
    """What was changed, or with `check` what would be."""

    def __init__(self, check):
        self._check = check
        self.paths, self.diff = [], []

    def write(self, path, text, mode=0o644):
        before = read(path)
        if before == text:
            return
        self.paths.append(path)
        self.diff.append(text_diff(path, before, text))
        if not self._check:
            write(path, text, mode)

    def remove(self, path):
        self.paths.append(path)
        self.diff.append(text_diff(path, "present\n", None))
        if self._check:
            return
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def hash_lines(prefix, request):
    """Yield the lines of state.sha256."""
    environment = os.path.join(prefix, "envs", request["digest"])
    paths = [
        os.path.join(environment, name)
        for name in (".complete", "lock.txt", "stack.json", "manifest.txt", "pyvenv.cfg", "bin/vllm")
    ]
    paths += find_hooks(environment)[0]
    tools = sorted(os.listdir(os.path.join(prefix, "bin")))
    paths += [os.path.join(prefix, "bin", name) for name in tools if name != "uv"]
    if request["service"].get("unit"):
        paths.append(request["service"]["unit_path"])
    if request["service"].get("config"):
        paths.append(os.path.join(prefix, "etc", "supervisord.conf"))
    for path in paths:
        if os.path.isfile(path):
            yield f"{sha256(path)}  {path}\n"


def stat_lines(prefix, request):
    """Yield the lines of state.files: all columns of secrets and of the model, else only mode and owner."""
    environment = os.path.join(prefix, "envs", request["digest"])
    for path in [*(os.path.join(prefix, name).rstrip("/") for name in FOLDERS), environment]:
        yield stat_line(path, times=False)
    for path in (request["service"].get("unit_path"), os.path.join(prefix, "etc", "supervisord.conf")):
        if path and os.path.exists(path):
            yield stat_line(path, times=False)
    paths = [os.path.join(prefix, "etc", "service.env")]
    paths += [os.path.join(environment, name) for name in ("service.json", "manifest.txt")]
    model = (request["state"].get("readiness") or {}).get("model_folder")
    if model and os.path.isdir(model):
        paths.append(f"{model}.manifest.txt")
        for folder, names, files in os.walk(model):
            names.sort()
            # The reference answer is computed later, in the same folder.
            paths += [os.path.join(folder, name) for name in sorted(files) if not name.startswith("reference-")]
    for path in paths:
        if os.path.lexists(path) and "\n" not in path:
            yield stat_line(path, times=True)


def stat_line(path, *, times):
    found = os.lstat(path)
    written = f"{found.st_size} {int(found.st_mtime)} {int(found.st_ctime)}" if times else "- - -"
    return f"{found.st_mode & 0o7777:o} {found.st_uid} {found.st_gid} {written} {path}\n"


def interpreter_homes(environments):
    """Yield the folders of the environments' interpreters, from each pyvenv.cfg."""
    for environment in environments:
        for line in (read(os.path.join(environment, "pyvenv.cfg")) or "").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "home":
                yield os.path.realpath(value.strip())


def prune_folders(prefix, changes):
    """Remove environments and interpreters that are no longer needed."""
    kept = [os.path.realpath(os.path.join(prefix, name)) for name in ("current", "previous")]
    for entry in sorted(os.scandir(os.path.join(prefix, "envs")), key=lambda entry: entry.name):
        # Folders whose name begins with a dot belong to a build, which removes them.
        if entry.is_dir() and not entry.name.startswith(".") and os.path.realpath(entry.path) not in kept:
            changes.remove(entry.path)
    homes = list(interpreter_homes(kept))
    for entry in sorted(os.scandir(os.path.join(prefix, "python")), key=lambda entry: entry.name):
        if not any(home.startswith(os.path.realpath(entry.path) + os.sep) for home in homes):
            changes.remove(entry.path)


def prune_units(prefix, request, changes):
    """Remove units of earlier releases."""
    record = os.path.join(prefix, "etc", "units")
    live = request["service"]["unit_path"] if request["service"].get("unit") else None
    known = (read(record) or "").split()
    for path in known:
        if path != live and os.path.exists(path):
            changes.remove(path)
    if known and known != [live]:
        changes.write(record, "".join(f"{path}\n" for path in known if path == live))


def record_state(prefix, request, changes):
    """Write the records, state.json last."""
    variables = sha256(os.path.join(prefix, "etc", "service.env"))
    started = f"{request['service']['digest']} {request['digest']} {variables}\n"
    changes.write(os.path.join(prefix, "etc", "started"), started, mode=0o600)
    changes.write(os.path.join(prefix, "state.sha256"), "".join(hash_lines(prefix, request)))
    prune_folders(prefix, changes)
    prune_units(prefix, request, changes)
    unit, service = os.path.join(prefix, "state.unit"), service_of(request)
    if service["supervisor"] in ("systemd", "systemd-user"):
        changes.write(unit, "".join(f"{line}\n" for line in unit_properties(service)))
    elif os.path.exists(unit):
        changes.remove(unit)
    # Pruning changes folders, so their modes are read after it.
    changes.write(os.path.join(prefix, "state.files"), "".join(stat_lines(prefix, request)))
    state = json.dumps(request["state"], indent=1, sort_keys=True) + "\n"
    changes.write(os.path.join(prefix, "state.json"), state)


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    prefix, changes = module.params["prefix"], Changes(module.check_mode)
    request = request_of(prefix, linked(prefix, "current"))
    if request is None:
        module.fail_json(msg=f"nothing is active in {prefix}", hint="run ./firstlight provision")
    record_state(prefix, request, changes)
    module.exit_json(changed=bool(changes.paths), paths=changes.paths, **diff_result(module, changes.diff))


if __name__ == "__main__":
    main()
