#!/usr/bin/python
"""Ansible module: the record of the state that a host reached."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_host import read, run, write
from ansible.module_utils.firstlight_releases import json_text, known, linked, load, needed, service_of, start_record
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
        self.paths = []

    def write(self, path, text, mode=0o644):
        if read(path) == text:
            return
        self.paths.append(path)
        if not self.check:
            write(path, text, mode)

    def remove(self, path):
        self.paths.append(path)
        if self.check:
            return
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def hash_lines(prefix, live, *, secret):
    """Yield the lines of state.sha256, or with `secret` those of state.secrets."""
    environment = os.path.join(prefix, "envs", live["environment"])
    names = (".complete", "lock.txt", "stack.json", "pyvenv.cfg", "bin/vllm")
    paths = [os.path.join(environment, name) for name in names] + find_hooks(environment)[0] + service_paths(live)
    for path in paths + sorted(path for path in installed_paths(prefix) if not os.path.islink(path)):
        if os.path.isfile(path) and "\n" not in path:
            found = os.stat(path)
            if found.st_size <= SMALL and secret is not bool(found.st_mode & 0o004):
                yield f"{hashlib.sha256(Path(path).read_bytes()).hexdigest()}  {path}\n"


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
    """Yield the lines of state.files: all columns of files, only mode and owner of folders and of the unit.

    A file of a model may be one with that of the controller's cache, whose other names come and go: its change time says nothing.
    """
    models = os.path.join(prefix, "models", "")
    environment = os.path.join(prefix, "envs", live["environment"])
    for path in (prefix, os.path.join(prefix, "envs"), environment, *service_paths(live)):
        if os.path.exists(path):
            yield stat_line(path, times=False)
    for path in (os.path.join(environment, "manifest.txt"), *installed_paths(prefix)):
        if os.path.lexists(path) and "\n" not in path:
            times = not os.path.isdir(path) or os.path.islink(path)
            yield stat_line(path, times=times, changes=not path.startswith(models))


def stat_line(path, *, times, changes=True):
    found = os.lstat(path)
    changed = int(found.st_ctime) if changes else "-"
    written = f"{found.st_size} {int(found.st_mtime)} {changed}" if times else "- - -"
    return f"{found.st_mode & 0o7777:o} {found.st_uid} {found.st_gid} {written} {path}\n"


def subfolders(prefix, name):
    """Return the folders below PREFIX/NAME, in order; no links, which the service may make in its cache."""
    folder = os.path.join(prefix, name)
    found = os.scandir(folder) if os.path.isdir(folder) else ()
    return sorted((entry for entry in found if entry.is_dir(follow_symlinks=False)), key=lambda entry: entry.name)


def prune_folders(prefix, changes):
    """Remove releases, environments, models, start caches and interpreters that are no longer needed."""
    releases = needed(prefix)
    environments = {release["environment"] for release in releases}
    models = {(release["record"].get("model") or {}).get("folder") for release in releases}
    for name, kept in (("releases", {release["digest"] for release in releases}), ("envs", environments)):
        for entry in subfolders(prefix, name):
            # A name that begins with a dot is that of a build, which removes it.
            if entry.name not in kept and not entry.name.startswith("."):
                changes.remove(entry.path)
    for entry in subfolders(prefix, "models"):
        # The list of its files is what tells a model of ours.
        if entry.name not in models and os.path.exists(listed := f"{entry.path}.manifest.txt"):
            changes.remove(entry.path)
            changes.remove(listed)
    # What the services of these releases compile into, and what an unpacking that was cut off left.
    values = [value for one in releases for value in (one["record"]["service"].get("environment") or {}).values()]
    caches = {name for value in values for name in re.findall(r"/cache/(start-[0-9a-f]+)(?:/|$)", str(value))}
    for entry in subfolders(prefix, "cache"):
        if entry.name.startswith(("start-", ".start-")) and entry.name not in caches:
            changes.remove(entry.path)
    texts = [read(os.path.join(prefix, "envs", name, "pyvenv.cfg")) or "" for name in environments]
    homes = [os.path.realpath(home) for text in texts for home in re.findall(r"^home *= *(.*?) *$", text, re.MULTILINE)]
    for entry in subfolders(prefix, "python"):
        if not any(home.startswith(os.path.realpath(entry.path) + os.sep) for home in homes):
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
    """Remove images that no release of a service of this machine needs any more. One that a container of somebody else has stays in podman."""
    record = os.path.join(prefix, "etc", "images")
    listed = (read(record) or "").split()
    first = Path(prefix.rpartition("@")[0] or prefix)
    services = [prefix, first, *first.parent.glob(f"{first.name}@*")]
    units = [one["record"]["service"].get("unit") or "" for service in services for one in needed(service)]
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
    changes.write(os.path.join(prefix, "state.json"), json_text(live["state"]))


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    prefix, changes = module.params["prefix"], Changes(module.check_mode)
    live = linked(prefix, "current")
    if live is None:
        module.fail_json(msg=f"nothing is active in {prefix}", hint="run ./firstlight provision")
    record_state(prefix, live, changes)
    module.exit_json(changed=bool(changes.paths), paths=changes.paths)


if __name__ == "__main__":
    main()
