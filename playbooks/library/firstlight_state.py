#!/usr/bin/python
"""Ansible module: the record of the state that a host reached."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from fnmatch import fnmatchcase

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_host import diff_result, read, run, text_diff, write
from ansible.module_utils.firstlight_releases import known, linked, load, needed, service_of, start_caches, start_record
from ansible.module_utils.firstlight_unit import find_hooks, unit_properties

ARGUMENTS = {"prefix": {"type": "path", "required": True}}
FOLDERS = ("bin", "etc", "models", "releases")
"""Below the prefix: whoever may write there may change what is served."""
LATER = ("started", "units", "images", "stopped.json", "reference-*", "switch.json")
"""Names of files that this module or a later step writes."""
PODMAN_S = 300
"""Seconds for the removal of an image."""
SMALL = 1 << 20
"""Size in bytes up to which content is hashed at each probe."""


class Changes:
    """What was changed, or with `check` what would be."""

    def __init__(self, check):
        self.check = check
        self.paths, self.diff = [], []

    def write(self, path, text, mode=0o644):
        before = read(path)
        if before == text:
            return
        self.paths.append(path)
        self.diff.append(text_diff(path, before, text))
        if not self.check:
            write(path, text, mode)

    def remove(self, path):
        self.paths.append(path)
        self.diff.append(text_diff(path, "present\n", None))
        if self.check:
            return
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def hash_lines(prefix, live, *, secret):
    """Yield the lines of state.sha256, or with `secret` those of state.secrets."""
    environment = os.path.join(prefix, "envs", live["environment"])
    paths = [
        os.path.join(environment, name) for name in (".complete", "lock.txt", "stack.json", "pyvenv.cfg", "bin/vllm")
    ]
    paths += find_hooks(environment)[0]
    paths += service_paths(live)
    paths += sorted(path for path in installed_paths(prefix) if not os.path.islink(path))
    for path in paths:
        if os.path.isfile(path) and "\n" not in path:
            found = os.stat(path)
            if found.st_size <= SMALL and secret is not bool(found.st_mode & 0o004):
                yield f"{sha256(path)}  {path}\n"


def service_paths(live):
    """Return the unit's path where there is one."""
    service = live["record"]["service"]
    return [service["unit_path"]] if service.get("unit") else []


def installed_paths(prefix):
    """Yield the files and folders of an installation, without its environments and what is written later."""
    for folder in FOLDERS:
        for above, folders, names in os.walk(os.path.join(prefix, folder)):
            folders[:] = sorted(name for name in folders if name != "set-aside")
            yield above
            links = [name for name in folders if os.path.islink(os.path.join(above, name))]
            for name in sorted([*links, *names]):
                if not any(fnmatchcase(name, each) for each in LATER):
                    yield os.path.join(above, name)


def stat_lines(prefix, live):
    """Yield the lines of state.files: all columns of files, only mode and owner of folders and of the unit."""
    environment = os.path.join(prefix, "envs", live["environment"])
    for path in (prefix, os.path.join(prefix, "envs"), environment, *service_paths(live)):
        if os.path.exists(path):
            yield stat_line(path, times=False)
    for path in (os.path.join(environment, "manifest.txt"), *installed_paths(prefix)):
        if os.path.lexists(path) and "\n" not in path:
            yield stat_line(path, times=not os.path.isdir(path) or os.path.islink(path))


def stat_line(path, *, times):
    found = os.lstat(path)
    written = f"{found.st_size} {int(found.st_mtime)} {int(found.st_ctime)}" if times else "- - -"
    return f"{found.st_mode & 0o7777:o} {found.st_uid} {found.st_gid} {written} {path}\n"


def interpreter_homes(environments):
    """Yield the folders of the environments' interpreters, from each pyvenv.cfg."""
    for environment in environments:
        for line in (read(os.path.join(environment, "pyvenv.cfg")) or "").splitlines():
            key, _sign, value = line.partition("=")
            if key.strip() == "home":
                yield os.path.realpath(value.strip())


def subfolders(prefix, name):
    """Return the folders below PREFIX/NAME, in order. Those whose name begins with a dot belong to a build, which removes them."""
    found = sorted(os.scandir(os.path.join(prefix, name)), key=lambda entry: entry.name)
    return [entry for entry in found if entry.is_dir() and not entry.name.startswith(".")]


def prune_folders(prefix, changes):
    """Remove releases, environments, models, start caches and interpreters that are no longer needed."""
    releases = needed(prefix)
    environments = {release["environment"] for release in releases}
    models = {(release["record"].get("model") or {}).get("folder") for release in releases}
    for name, kept in (("releases", {release["digest"] for release in releases}), ("envs", environments)):
        for entry in subfolders(prefix, name):
            if entry.name not in kept:
                changes.remove(entry.path)
    for entry in subfolders(prefix, "models"):
        # The list of its files is what tells a model of ours.
        if entry.name not in models and os.path.exists(listed := f"{entry.path}.manifest.txt"):
            changes.remove(entry.path)
            changes.remove(listed)
    prune_start_caches(prefix, start_caches(releases), changes)
    homes = list(interpreter_homes(os.path.join(prefix, "envs", name) for name in sorted(environments)))
    for entry in subfolders(prefix, "python"):
        if not any(home.startswith(os.path.realpath(entry.path) + os.sep) for home in homes):
            changes.remove(entry.path)


def prune_start_caches(prefix, names, changes):
    """Remove start caches but those of some names, and what an unpacking that was cut off left."""
    folder = os.path.join(prefix, "cache")
    for entry in sorted(os.scandir(folder) if os.path.isdir(folder) else (), key=lambda entry: entry.name):
        # The service may write here: a link is not followed.
        if entry.name.startswith(("start-", ".start-")) and entry.name not in names and not entry.is_symlink():
            changes.remove(entry.path)


def prune_units(prefix, live, changes):
    """Remove units of earlier releases. Those of a gateway or of monitoring are of no release, and stay."""
    record = os.path.join(prefix, "etc", "units")
    releases = [load(prefix, digest) for digest in known(prefix)]
    earlier = {path for release in releases for path in service_paths(release)} - set(service_paths(live))
    for path in sorted(earlier):
        if os.path.exists(path):
            changes.remove(path)
    listed = (read(record) or "").split()
    if earlier & set(listed):
        changes.write(record, "".join(f"{path}\n" for path in listed if path not in earlier))


def prune_images(prefix, changes):
    """Remove images that came with releases which are no longer needed. One that a container of somebody else has stays in podman."""
    record = os.path.join(prefix, "etc", "images")
    listed = (read(record) or "").split()
    units = [release["record"]["service"].get("unit") or "" for release in needed(prefix)]
    kept = [image for image in listed if any(f"Image={image}\n" in unit for unit in units)]
    if kept != listed:
        for image in set(listed) - set(kept):
            if not changes.check:
                run("podman", "rmi", image, timeout_s=PODMAN_S)
        changes.write(record, "".join(f"{image}\n" for image in kept))


def record_state(prefix, live, changes):
    """Write the records, state.json last."""
    variables = read(os.path.join(prefix, "etc", "service.env"))
    changes.write(os.path.join(prefix, "etc", "started"), start_record(live, variables), mode=0o600)
    prune_units(prefix, live, changes)
    prune_folders(prefix, changes)
    prune_images(prefix, changes)
    changes.write(os.path.join(prefix, "state.sha256"), "".join(hash_lines(prefix, live, secret=False)))
    changes.write(os.path.join(prefix, "state.secrets"), "".join(hash_lines(prefix, live, secret=True)), mode=0o600)
    unit, service = os.path.join(prefix, "state.unit"), service_of(live)
    if service["supervisor"] in ("systemd", "systemd-user"):
        changes.write(unit, "".join(f"{line}\n" for line in unit_properties(service)))
    elif os.path.exists(unit):
        changes.remove(unit)
    # Pruning changes folders, so their modes are read after it.
    changes.write(os.path.join(prefix, "state.files"), "".join(stat_lines(prefix, live)))
    state = json.dumps(live["state"], indent=1, sort_keys=True) + "\n"
    changes.write(os.path.join(prefix, "state.json"), state)


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    prefix, changes = module.params["prefix"], Changes(module.check_mode)
    live = linked(prefix, "current")
    if live is None:
        module.fail_json(msg=f"nothing is active in {prefix}", hint="run ./firstlight provision")
    record_state(prefix, live, changes)
    module.exit_json(changed=bool(changes.paths), paths=changes.paths, **diff_result(module, changes.diff))


if __name__ == "__main__":
    main()
