#!/usr/bin/python
"""Ansible module: the switch to another release."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_release
short_description: Switch to a release, which is all that a host serves
description:
  - Writes the release to C(releases/DIGEST) (C(release.json), mode 0600), then the unit or supervisor's configuration and
    C(etc/service.env), and switches C(current) by one rename.
  - C(releases/switch.json) is written first. It names what served before, until a proof of the new release replaces it.
    A switch that was cut off is continued, or undone by O(rollback).
  - The API key is generated on the host, kept in C(etc/service.env) (mode 0600), and returned nowhere.
  - Files that override the unit, and files that Python would run at each start and that nobody installed, are moved to
    C(etc/set-aside), below the path that they had.
  - Starts and stops nothing.
options:
  prefix:
    description: Absolute folder that holds everything of this product on the host.
    type: path
    required: true
  rollback:
    description:
      - V(previous) returns from a switch that is not proven yet, else to the release that C(previous) leads to.
      - V(unproven) only returns from a switch that is not proven yet. Where nothing was proven before, nothing is done.
    type: str
    choices: [previous, unproven]
  to:
    description: Digest of the release to return to; used with O(rollback=previous). Empty for the one before.
    type: str
    default: ""
  environment:
    description: Folder of the environment below C(envs). It, O(release), O(service) and O(state) are given together, or O(rollback).
    type: str
  release:
    description: The record of the release, without its service.
    type: dict
  service:
    description: How the model is served; see the argument specification of role C(service).
    type: dict
  state:
    description: What C(state.json) holds when the host is in the desired state.
    type: dict
author: Firstlight
"""

EXAMPLES = r"""
- name: Switch to a release
  firstlight_release:
    prefix: /opt/firstlight
    environment: 0123456789abcdef
    release: "{{ firstlight_release }}"
    service: "{{ firstlight_service }}"
    state: "{{ firstlight_state }}"
  register: release

- name: Return to the previous release
  firstlight_release:
    prefix: /opt/firstlight
    rollback: previous
"""

RETURN = r"""
release:
  description: Digest of the release that is active now. None where O(rollback=unproven) found nothing to return to.
  type: str
  returned: always
paths:
  description: What differed, files and C(current), or C(the running service).
  type: list
  elements: str
  returned: always
restart:
  description: Whether the service must be restarted.
  type: bool
  returned: always
failing:
  description: Whether the unit failed or is between two starts.
  type: bool
  returned: always
former:
  description: What served before under another supervisor or name, in the form of M(firstlight_release_info). None where nothing did.
  type: dict
  returned: always
supervisor:
  description: C(systemd), C(systemd-user), C(supervisor) or C(none).
  type: str
  returned: always
name:
  description: Name of the unit or program.
  type: str
  returned: always
scope:
  description: Instance of systemd that has the unit, C(system) or C(user).
  type: str
  returned: always
uid:
  description: User ID of the account that Ansible uses on the host.
  type: int
  returned: always
"""

import glob
import hashlib
import json
import os
import re
import secrets
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_files import diff_result, list_diff, read, replace_link, text_diff, write
from ansible.module_utils.firstlight_releases import (
    ENVIRONMENT,
    RECORD,
    STATE,
    SWITCH,
    folder_of,
    known,
    link_of,
    linked,
    linked_digest,
    load,
    load_json,
    open_switch,
    record_text,
    release,
    service_of,
)
from ansible.module_utils.firstlight_unit import comparable, find_hooks, record_unit, systemctl, unit_properties

ARGUMENTS = {
    "prefix": {"type": "path", "required": True},
    "rollback": {"type": "str", "choices": ["previous", "unproven"]},
    "to": {"type": "str", "default": ""},
    "environment": {"type": "str"},
    "release": {"type": "dict"},
    "service": {"type": "dict"},
    "state": {"type": "dict"},
}
KEY = "VLLM_API_KEY"
PLAIN = re.compile(r"^[A-Za-z0-9_@%+=:,./-]*$")
SECRET_FILES = ("service.env", RECORD)


class ReleaseError(Exception):
    """What stands against activating a release, and what helps."""

    def __init__(self, text, hint):
        super().__init__(text)
        self.hint = hint


def is_complete(prefix, environment):
    return os.path.exists(os.path.join(prefix, "envs", environment, ".complete"))


def kept_key(text):
    found = re.search(rf"^{KEY}=(\S+)$", text or "", re.MULTILINE)
    return found.group(1) if found else None


def assignment(name, value):
    """Return a line that systemd's EnvironmentFile and a POSIX shell read alike."""
    if "\n" in value:
        raise ReleaseError(f"environment variable {name} holds a line break", "set firstlight_env without it")
    if PLAIN.match(value):
        return f"{name}={value}\n"
    return f'{name}="' + re.sub(r'(["\\$`])', r"\\\1", value) + '"\n'


def environment_text(service, before):
    lines = [assignment(name, str(value)) for name, value in sorted((service.get("environment") or {}).items())]
    if service["api_key"]:
        lines.append(f"{KEY}={kept_key(before) or secrets.token_urlsafe(32)}\n")
    return "".join(lines)


def foreign_files(prefix, target):
    """Return files that nobody installed and that decide what starts."""
    environment = os.path.join(prefix, "envs", target["environment"])
    return unit_overrides(target["record"]["service"]) + find_hooks(environment)[1]


def unit_overrides(service):
    """Return drop-ins of this unit alone, and unit files that take precedence over ours."""
    home = os.path.expanduser("~")
    if service["supervisor"] == "systemd":
        first = ["/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient"]
        folders = [
            *first,
            "/etc/systemd/system",
            "/run/systemd/system",
            "/usr/local/lib/systemd/system",
            "/usr/lib/systemd/system",
        ]
    elif service["supervisor"] == "systemd-user":
        run = f"/run/user/{os.geteuid()}/systemd"
        first = [f"{home}/.config/systemd/user.control", f"{run}/user.control", f"{run}/transient"]
        folders = [*first, f"{home}/.config/systemd/user", f"{run}/user", f"{home}/.local/share/systemd/user"]
    else:
        return []
    found = [path for folder in folders for path in sorted(glob.glob(f"{folder}/{service['name']}.d/*.conf"))]
    return found + [path for folder in first for path in [f"{folder}/{service['name']}"] if os.path.lexists(path)]


def set_aside(prefix, path):
    """Move a file to PREFIX/etc/set-aside; an earlier one of the same path is kept."""
    kept = os.path.join(prefix, "etc", "set-aside")
    os.makedirs(kept, mode=0o700, exist_ok=True)
    target, number = kept + path, 1
    while os.path.lexists(target):
        number += 1
        target = f"{kept}{path}.{number}"
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.move(path, target)
    folder = os.path.dirname(path)
    if folder.endswith(".d") and not os.listdir(folder):
        os.rmdir(folder)


def release_files(prefix, target):
    """Return path, text and mode of the files in the folder of a release, the record last."""
    folder = folder_of(prefix, target["digest"])
    state = json.dumps(target["state"], indent=1, sort_keys=True) + "\n"
    return [
        (os.path.join(folder, STATE), state, 0o644),
        (os.path.join(folder, RECORD), record_text(target["record"]), 0o600),
    ]


def service_files(prefix, target):
    """Return path, text and mode of the files that the service starts from, its variables first."""
    service, path = target["record"]["service"], os.path.join(prefix, "etc", "service.env")
    files = [(path, environment_text(service, read(path)), 0o600)]
    if service.get("unit"):
        files.append((service["unit_path"], service["unit"], 0o644))
    if service.get("config"):
        files.append((os.path.join(prefix, "etc", "supervisord.conf"), service["config"], 0o644))
    return files


def owner_and_mode(path):
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_uid, found.st_mode & 0o777


def differs(path, text, mode):
    return read(path) != text or owner_and_mode(path) != (os.geteuid(), mode)


def next_switch(switch, live, previous, target):
    """Return what releases/switch.json says while a release goes live.

    Args:
        switch: The last switch, where its release is not proven yet; else None.
        live: Digest of the active release, or None.
        previous: Digest of the one before it, or None.
        target: Digest of the release that goes live.
    """
    if switch is None:
        return None if target == live else {"from": live, "previous": previous, "to": target}
    if target in (switch["from"], switch["to"]):
        return switch
    if switch["from"] is None:
        # Nothing was ever proven, as by playbooks alone: a person may go back, a failed start does not.
        return {"from": None, "previous": live, "to": target}
    # What was proven before an unproven release stays.
    return {**switch, "to": target}


def wanted_links(prefix, target, switch):
    """Return the targets of `current` and `previous`; None for a link that is not to be there."""
    if switch is None:
        before = linked_digest(prefix, "previous")
    else:
        before = switch["previous"] if target["digest"] == switch["from"] else switch["from"] or switch["previous"]
    return {
        "current": link_of(target["digest"]),
        "previous": link_of(before) if before and load(prefix, before) else None,
    }


def link_at(path):
    return os.readlink(path) if os.path.islink(path) else None


def links_to_replace(prefix, target, switch):
    """Yield path and target of each link that differs, `current` first of those below the prefix.

    An environment that was built anew takes the place of the damaged one in every release.
    """
    digest = target["record"]["environment"]
    same = [name for name in known(prefix) if load(prefix, name)["record"]["environment"] == digest]
    links = {
        os.path.join(folder_of(prefix, name), ENVIRONMENT): os.path.join("..", "..", "envs", target["environment"])
        for name in dict.fromkeys([target["digest"], *same])
    }
    links.update({os.path.join(prefix, name): text for name, text in wanted_links(prefix, target, switch).items()})
    for path, text in links.items():
        if link_at(path) != text:
            yield path, text


def adopt(prefix):
    """Give what an earlier version of this product activated a folder in releases."""
    for name in ("current", "previous"):
        found = linked(prefix, name)
        if found and load(prefix, found["digest"]) is None:
            write_folder(prefix, found)


def write_folder(prefix, target):
    folder = folder_of(prefix, target["digest"])
    os.makedirs(folder, exist_ok=True)
    # The service's account goes through them, whatever the umask is.
    for path in (os.path.dirname(folder), folder):
        os.chmod(path, 0o755)
    replace_link(os.path.join(folder, ENVIRONMENT), os.path.join("..", "..", "envs", target["environment"]))
    for path, text, mode in release_files(prefix, target):
        write(path, text, mode)


def write_release(prefix, target, switch, files):
    """Write what differs and switch `current`. Whatever cuts it off, the next call continues it."""
    for path in (os.path.join(prefix, "state.json"), os.path.join(prefix, "etc", "started")):
        if os.path.exists(path):
            os.unlink(path)
    service = target["record"]["service"]
    if service.get("unit"):
        record_unit(prefix, service["unit_path"])
    for path in foreign_files(prefix, target):
        set_aside(prefix, path)
    adopt(prefix)
    write_folder(prefix, target)
    if switch is not None:
        write(os.path.join(prefix, "releases", SWITCH), json.dumps(switch, sort_keys=True) + "\n")
    for path, text, mode in files:
        write(path, text, mode)
    for path, text in list(links_to_replace(prefix, target, switch)):
        if text is None:
            os.unlink(path)
        else:
            replace_link(path, text)


def unit_state(prefix, service):
    """Return whether a running unit must be restarted, and whether it failed or is between two starts.

    It must be restarted where systemd would start something else than was recorded, or where a signal stopped one of
    its processes.
    """
    answer = systemctl(service, "show", "--property=ActiveState,MainPID", service["name"])
    if answer is None:
        raise ReleaseError(
            f"systemd did not report the state of {service['name']} in time", "look at it there: systemctl status"
        )
    values = dict(line.split("=", 1) for line in answer.splitlines())
    failing = values.get("ActiveState") in ("failed", "activating", "deactivating")
    recorded = (read(os.path.join(prefix, "state.unit")) or "").splitlines()
    # An earlier release may have recorded fewer properties.
    names = {line.partition("=")[0] for line in recorded}
    now = [line for line in unit_properties(service) if line.partition("=")[0] in names]
    return comparable(recorded) != comparable(now) or has_stopped(int(values.get("MainPID") or 0)), failing


def has_stopped(main_pid):
    """Return whether the process or one below it is stopped by a signal."""
    found = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path, "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:  # the process has ended
            continue
        found[int(path.split("/")[2])] = state, int(parent)
    ours = {main_pid} if main_pid in found else set()
    while below := {pid for pid, (_, parent) in found.items() if parent in ours} - ours:
        ours |= below
    return any(found[pid][0] in (b"T", b"t") for pid in ours)


def start_record(target, variables):
    """Return what a service is started from: settings, environment, and the hash of its variables with the key."""
    digest = hashlib.sha256(variables.encode()).hexdigest()
    return f"{target['record']['service']['digest']} {target['environment']} {digest}\n"


def live_release(prefix, target):
    """Return the active release, and its digest.

    What an earlier version of this product started counts as the target where service and environment are the same.
    """
    live, digest = linked(prefix, "current"), linked_digest(prefix, "current")
    if live and load(prefix, live["digest"]) is None:
        pairs = [(found["record"]["service"]["digest"], found["environment"]) for found in (live, target)]
        digest = target["digest"] if pairs[0] == pairs[1] else digest
    return live, digest


def activate(prefix, target, *, check):
    """Switch to a release; with `check` only report. Return the module's result and the entries of its diff."""
    if not check and not is_complete(prefix, target["environment"]):
        text = f"environment {target['environment']} is not complete in {prefix}/envs"
        raise ReleaseError(text, "run ./firstlight provision")
    before, live = live_release(prefix, target)
    switch = next_switch(open_switch(prefix), live, linked_digest(prefix, "previous"), target["digest"])
    wanted = service_files(prefix, target)
    files = [file for file in wanted if differs(*file)]
    differing = [file for file in release_files(prefix, target) if differs(*file)] + files
    overrides = foreign_files(prefix, target)
    links = list(links_to_replace(prefix, target, switch))
    paths = [path for path, *_ in differing] + overrides + [path for path, _ in links]
    diff = [file_diff(path, text) for path, text, _ in differing]
    diff += [list_diff("set aside", overrides, [])] if overrides else []
    diff += [list_diff(path, filter(None, [link_at(path)]), filter(None, [text])) for path, text in links]
    restart = bool(paths) or read(os.path.join(prefix, "etc", "started")) != start_record(target, wanted[0][1])
    now, other, failing = service_of(target), False, False
    if now["supervisor"] in ("systemd", "systemd-user"):
        other, failing = unit_state(prefix, now)
    elif now["supervisor"] == "supervisor":
        other = has_stopped(int(read(os.path.join(prefix, "run", "supervisord.pid")) or 0))
    paths += ["the running service"] if other and not paths else []
    if paths and not check:
        write_release(prefix, target, switch, files)
    former = service_of(before) if before else None
    if former == now or (former and former["supervisor"] == "none"):
        former = None
    result = {"changed": bool(paths), "paths": paths, "former": former, "failing": failing}
    return {**now, **result, "release": target["digest"], "restart": restart or other or failing}, diff


def file_diff(path, text):
    """Return the diff of a file; of one with secrets only that it differs."""
    if path.endswith(SECRET_FILES):
        return {"prepared": f"{path}: differs; its content is not shown"}
    return text_diff(path, read(path), text)


def origin_of(prefix):
    """Return the digest of what served before a switch that is not proven yet; None where there is no such switch.

    A host that has returned is whole again: its state.json names the release that `current` leads to.
    """
    switch = open_switch(prefix)
    if switch is None:
        return None
    live, state = linked_digest(prefix, "current"), load_json(prefix, "state.json")
    return None if live == switch["from"] == state.get("release") else switch["from"]


def can_return(prefix):
    """Return whether a release served before a switch that is not proven yet."""
    digest = origin_of(prefix)
    found = digest and load(prefix, digest)
    return digest is not None and not (found and found["record"]["service"]["supervisor"] == "none")


def former_release(prefix, to):
    """Return the release of a rollback."""
    digest = to or origin_of(prefix) or linked_digest(prefix, "previous")
    if digest is None:
        raise ReleaseError(f"{prefix}/previous does not exist: there is no earlier release", "nothing was changed")
    if to and to not in known(prefix) and not os.path.isdir(folder_of(prefix, to)):
        there = ", ".join(known(prefix)) or "none"
        text = f"release {to} is not on this host; there are: {there}"
        raise ReleaseError(text, "nothing was changed; only the current and the previous release are kept")
    return digest


def whole_release(prefix, digest):
    """Return a release with all that it needs.

    Raises:
        ReleaseError: Its record, its environment or its model is gone.
    """
    linked_ones = filter(None, (linked(prefix, name) for name in ("current", "previous")))
    target = load(prefix, digest) or next((found for found in linked_ones if found["digest"] == digest), None)
    hint = "nothing was changed; to install what the inventory asks for: ./firstlight provision"
    if target is None:
        raise ReleaseError(
            f"release {digest} is not whole: {folder_of(prefix, digest)}/{RECORD} is missing or damaged", hint
        )
    if not is_complete(prefix, target["environment"]):
        environment = os.path.join(prefix, "envs", target["environment"])
        raise ReleaseError(
            f"release {digest} cannot be served: its environment {environment} is gone or not complete", hint
        )
    model = (target["state"].get("readiness") or {}).get("model_folder")
    if model and not os.path.exists(os.path.join(model, "config.json")):
        raise ReleaseError(f"release {digest} cannot be served: its model {model} is gone", hint)
    return target


def planned_release(module):
    """Return the release that the parameters describe."""
    given = module.params
    target = release({**given["release"], "service": given["service"]}, given["state"], given["environment"])
    planned = given["state"].get("release", target["digest"])
    if planned != target["digest"]:
        text = f"the record has the digest {target['digest']}, and the state names release {planned}"
        raise ReleaseError(text, "run ./firstlight provision: it plans both together")
    return target


def main():
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_one_of=[("rollback", "release")],
        mutually_exclusive=[("rollback", "release")],
        required_together=[("environment", "release", "service", "state")],
    )
    prefix, kind = module.params["prefix"], module.params["rollback"]
    try:
        if kind == "unproven" and not can_return(prefix):
            nothing = {"paths": [], "former": None, "failing": False, "restart": False}
            module.exit_json(changed=False, release=None, **service_of(linked(prefix, "current")), **nothing)
        if kind is None:
            target = planned_release(module)
        else:
            target = whole_release(prefix, former_release(prefix, module.params["to"]))
        result, diff = activate(prefix, target, check=module.check_mode)
    except ReleaseError as error:
        module.fail_json(msg=str(error), hint=error.hint)
    module.exit_json(**result, **diff_result(module, diff))


if __name__ == "__main__":
    main()
