#!/usr/bin/python
"""Ansible module: an environment and its service, activated together."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_release
short_description: Activate an environment together with its service
description:
  - Writes the unit or supervisor's configuration and C(etc/service.env), and switches C(current), in one step.
  - The request is kept next to its environment (C(envs/DIGEST/service.json), mode 0600). A rollback restores unit and settings from it.
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
    description: Activate the environment that C(previous) points at, with the service that belongs to it.
    type: bool
    default: false
  digest:
    description: Name of the environment's folder. Required without O(rollback).
    type: str
  service:
    description: How the model is served; see the argument specification of role C(service).
    type: dict
  state:
    description: What C(state.json) holds when the host is in the desired state.
    type: dict
author: Firstlight
"""

EXAMPLES = r"""
- name: Activate an environment and its service
  firstlight_release:
    prefix: /opt/firstlight
    digest: 0123456789abcdef
    service: "{{ firstlight_service }}"
    state: "{{ firstlight_state }}"
  register: release

- name: Return to the previous environment
  firstlight_release:
    prefix: /opt/firstlight
    rollback: true
"""

RETURN = r"""
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
from ansible.module_utils.firstlight_files import diff_result, list_diff, read, text_diff, write
from ansible.module_utils.firstlight_releases import linked, request_of, service_of
from ansible.module_utils.firstlight_unit import comparable, find_hooks, systemctl, unit_properties

ARGUMENTS = {
    "prefix": {"type": "path", "required": True},
    "rollback": {"type": "bool", "default": False},
    "digest": {"type": "str"},
    "service": {"type": "dict"},
    "state": {"type": "dict"},
}
KEY = "VLLM_API_KEY"
PLAIN = re.compile(r"^[A-Za-z0-9_@%+=:,./-]*$")
SECRET_FILES = ("service.env", "service.json")


class ReleaseError(Exception):
    """What stands against activating a release, and what helps."""

    def __init__(self, text, hint):
        super().__init__(text)
        self.hint = hint


def replace_link(path, target):
    temporary = f"{path}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, path)


def is_complete(prefix, digest):
    return digest is not None and os.path.exists(os.path.join(prefix, "envs", digest, ".complete"))


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


def foreign_files(prefix, request):
    """Return files that nobody installed and that decide what starts."""
    environment = os.path.join(prefix, "envs", request["digest"])
    return unit_overrides(request["service"]) + find_hooks(environment)[1]


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


def wanted_files(prefix, request):
    """Yield path, text and mode of every file that belongs to the service."""
    service = request["service"]
    environment = os.path.join(prefix, "etc", "service.env")
    yield environment, environment_text(service, read(environment)), 0o600
    if service.get("unit"):
        yield service["unit_path"], service["unit"], 0o644
    if service.get("config"):
        yield os.path.join(prefix, "etc", "supervisord.conf"), service["config"], 0o644
    kept = os.path.join(prefix, "envs", request["digest"], "service.json")
    yield kept, json.dumps(request, indent=1, sort_keys=True) + "\n", 0o600


def owner_and_mode(path):
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_uid, found.st_mode & 0o777


def differs(path, text, mode):
    return read(path) != text or owner_and_mode(path) != (os.geteuid(), mode)


def record_unit(prefix, path):
    """Add a unit to the list by which uninstall finds units, even after an interrupted installation."""
    record = os.path.join(prefix, "etc", "units")
    known = (read(record) or "").split()
    if path not in known:
        write(record, "\n".join([*known, path]) + "\n")


def write_release(prefix, request, files):
    """Write what differs and switch `current`."""
    for path in (os.path.join(prefix, "state.json"), os.path.join(prefix, "etc", "started")):
        if os.path.exists(path):
            os.unlink(path)
    if request["service"].get("unit"):
        record_unit(prefix, request["service"]["unit_path"])
    for path in foreign_files(prefix, request):
        set_aside(prefix, path)
    for path, text, mode in files:
        write(path, text, mode)
    live = linked(prefix, "current")
    if live != request["digest"]:
        # An environment that was rebuilt in DIGEST-2 replaces a damaged one: a rollback must not return to that.
        is_damaged = live is not None and live.partition("-")[0] == request["digest"].partition("-")[0]
        if is_complete(prefix, live) and not is_damaged:
            replace_link(os.path.join(prefix, "previous"), os.path.join("envs", live))
        replace_link(os.path.join(prefix, "current"), os.path.join("envs", request["digest"]))


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


def start_record(request, environment):
    """Return what a service is started from: settings, environment, and the hash of its variables with the key."""
    return f"{request['service']['digest']} {request['digest']} {hashlib.sha256(environment.encode()).hexdigest()}\n"


def activate(prefix, request, *, check):
    """Activate a release; with `check` only report. Return the module's result and the entries of its diff."""
    if not check and not is_complete(prefix, request["digest"]):
        text = f"environment {request['digest']} is not complete in {prefix}/envs"
        raise ReleaseError(text, "run ./firstlight provision")
    live = linked(prefix, "current")
    before = request_of(prefix, live)
    wanted = list(wanted_files(prefix, request))
    files = [file for file in wanted if differs(*file)]
    overrides = foreign_files(prefix, request)
    paths = [path for path, *_ in files] + overrides
    diff = [file_diff(path, text) for path, text, _ in files]
    diff += [list_diff("set aside", overrides, [])] if overrides else []
    if live != request["digest"]:
        paths.append(os.path.join(prefix, "current"))
        diff.append(list_diff(paths[-1], [live] if live else [], [request["digest"]]))
    restart = bool(paths) or read(os.path.join(prefix, "etc", "started")) != start_record(request, wanted[0][1])
    now, other, failing = service_of(request), False, False
    if now["supervisor"] in ("systemd", "systemd-user"):
        other, failing = unit_state(prefix, now)
    elif now["supervisor"] == "supervisor":
        other = has_stopped(int(read(os.path.join(prefix, "run", "supervisord.pid")) or 0))
    paths += ["the running service"] if other and not paths else []
    if paths and not check:
        write_release(prefix, request, files)
    former = service_of(before) if before else None
    if former == now or (former and former["supervisor"] == "none"):
        former = None
    result = {"changed": bool(paths), "paths": paths, "former": former, "failing": failing}
    return {**now, **result, "restart": restart or other or failing}, diff


def file_diff(path, text):
    """Return the diff of a file; of one with secrets only that it differs."""
    if path.endswith(SECRET_FILES):
        return {"prepared": f"{path}: differs; its content is not shown"}
    return text_diff(path, read(path), text)


def previous_request(prefix):
    digest = linked(prefix, "previous")
    if digest is None:
        raise ReleaseError(f"{prefix}/previous does not exist: there is no earlier environment", "nothing was changed")
    request = request_of(prefix, digest)
    if not is_complete(prefix, digest) or request is None:
        text = f"the previous environment {digest} is not whole in {prefix}/envs"
        raise ReleaseError(text, "run ./firstlight provision")
    return request


def main():
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_if=[("rollback", False, ("digest", "service", "state"))],
    )
    prefix = module.params["prefix"]
    try:
        if module.params["rollback"]:
            request = previous_request(prefix)
        else:
            request = {name: module.params[name] for name in ("digest", "service", "state")}
        result, diff = activate(prefix, request, check=module.check_mode)
    except ReleaseError as error:
        module.fail_json(msg=str(error), hint=error.hint)
    module.exit_json(**result, **diff_result(module, diff))


if __name__ == "__main__":
    main()
