#!/usr/bin/python
"""Ansible module: the switch to another release."""

from __future__ import annotations

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_host import (
    HostError,
    diff_result,
    differs,
    list_diff,
    read,
    replace_link,
    text_diff,
    write,
)
from ansible.module_utils.firstlight_releases import (
    ENVIRONMENT,
    RECORD,
    SWITCH,
    can_return,
    folder_of,
    known,
    link_at,
    linked,
    linked_digest,
    links_to_replace,
    load,
    next_switch,
    open_switch,
    origin_of,
    release,
    release_files,
    service_files,
    service_of,
    start_record,
    write_folder,
    write_state,
)
from ansible.module_utils.firstlight_unit import (
    find_hooks,
    has_stopped,
    other_units,
    record_unit,
    remove_other_unit,
    set_aside,
    unit_overrides,
    unit_state,
)

ARGUMENTS = {
    "prefix": {"type": "path", "required": True},
    "rollback": {"type": "str", "choices": ["previous", "unproven"]},
    "to": {"type": "str", "default": ""},
    "environment": {"type": "str"},
    "release": {"type": "dict"},
    "service": {"type": "dict"},
    "state": {"type": "dict"},
}
SECRET_FILES = ("service.env", RECORD)


def is_complete(prefix, environment):
    return os.path.exists(os.path.join(prefix, "envs", environment, ".complete"))


def foreign_files(prefix, target):
    """Return files that nobody installed and that decide what starts."""
    environment = os.path.join(prefix, "envs", target["environment"])
    return unit_overrides(target["record"]["service"]) + find_hooks(environment)[1]


def write_release(prefix, target, switch, files):
    """Write what differs and switch `current`. Whatever cuts it off, the next call continues it."""
    for path in (os.path.join(prefix, "state.json"), os.path.join(prefix, "etc", "started")):
        if os.path.exists(path):
            os.unlink(path)
    service = target["record"]["service"]
    if service.get("unit"):
        remove_other_unit(service)
        record_unit(prefix, service["unit_path"])
    for path in foreign_files(prefix, target):
        set_aside(prefix, path)
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
        if os.path.basename(path) == ENVIRONMENT:
            write_state(prefix, os.path.basename(os.path.dirname(path)))


def activate(prefix, target, *, check):
    """Switch to a release; with `check` only report. Return the module's result and the entries of its diff."""
    if not check and not is_complete(prefix, target["environment"]):
        text = f"environment {target['environment']} is not complete in {prefix}/envs"
        raise HostError(text, "run ./firstlight provision")
    before, live = linked(prefix, "current"), linked_digest(prefix, "current")
    switch = next_switch(open_switch(prefix), live, linked_digest(prefix, "previous"), target["digest"])
    wanted = service_files(prefix, target)
    files = [file for file in wanted if differs(*file)]
    differing = [file for file in release_files(prefix, target) if differs(*file)] + files
    overrides = foreign_files(prefix, target)
    others = other_units(target["record"]["service"])
    links = list(links_to_replace(prefix, target, switch))
    paths = [path for path, _text, _mode in differing] + overrides + others + [path for path, _text in links]
    diff = [file_diff(path, text) for path, text, _mode in differing]
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
    result = {"changed": bool(paths), "paths": paths, "former": former}
    return {**now, **result, "release": target["digest"], "restart": restart or other or failing}, diff


def file_diff(path, text):
    """Return the diff of a file; of one with secrets only that it differs."""
    if path.endswith(SECRET_FILES):
        return {"prepared": f"{path}: differs; its content is not shown"}
    return text_diff(path, read(path), text)


def former_release(prefix, to):
    """Return the release of a rollback."""
    digest = to or origin_of(prefix) or linked_digest(prefix, "previous")
    if digest is None:
        raise HostError(f"{prefix}/previous does not exist: there is no earlier release", "nothing was changed")
    if to and to not in known(prefix) and not os.path.isdir(folder_of(prefix, to)):
        there = ", ".join(known(prefix)) or "none"
        text = f"release {to} is not on this host; there are: {there}"
        raise HostError(text, "nothing was changed; only the current and the previous release are kept")
    return digest


def whole_release(prefix, digest):
    """Return a release with all that it needs.

    Raises:
        HostError: Its record, its environment or its model is gone.
    """
    target = load(prefix, digest)
    hint = "nothing was changed; to install what the inventory asks for: ./firstlight provision"
    if target is None:
        raise HostError(
            f"release {digest} is not whole: {folder_of(prefix, digest)}/{RECORD} is missing or damaged", hint
        )
    if not is_complete(prefix, target["environment"]):
        environment = os.path.join(prefix, "envs", target["environment"])
        raise HostError(
            f"release {digest} cannot be served: its environment {environment} is gone or not complete", hint
        )
    model = (target["state"].get("readiness") or {}).get("model_folder")
    if model and not os.path.exists(os.path.join(model, "config.json")):
        raise HostError(f"release {digest} cannot be served: its model {model} is gone", hint)
    return target


def planned_release(module):
    """Return the release that the parameters describe."""
    given = module.params
    target = release({**given["release"], "service": given["service"]}, given["state"], given["environment"])
    planned = given["state"].get("release", target["digest"])
    if planned != target["digest"]:
        text = f"the record has the digest {target['digest']}, and the state names release {planned}"
        raise HostError(text, "run ./firstlight provision: it plans both together")
    return target


def report(module, *, release):
    """End with what is served, unchanged."""
    served = service_of(linked(module.params["prefix"], "current"))
    module.exit_json(changed=False, release=release, **served, paths=[], former=None, restart=False)


def main():
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        mutually_exclusive=[("rollback", "release")],
        required_together=[("environment", "release", "service", "state")],
    )
    prefix, kind = module.params["prefix"], module.params["rollback"]
    try:
        if kind == "unproven" and not can_return(prefix):
            report(module, release=None)
        if kind is None and module.params["release"] is None:
            report(module, release=linked_digest(prefix, "current"))
        if kind is None:
            target = planned_release(module)
        else:
            target = whole_release(prefix, former_release(prefix, module.params["to"]))
        result, diff = activate(prefix, target, check=module.check_mode)
    except HostError as error:
        module.fail_json(msg=str(error), hint=error.hint)
    module.exit_json(**result, **diff_result(module, diff))


if __name__ == "__main__":
    main()
