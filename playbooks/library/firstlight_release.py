#!/usr/bin/python
"""Ansible module: the switch to another release."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_host import (
    HostError,
    diff_result,
    differs,
    read,
    replace_link,
    run,
    text_diff,
    write,
)
from ansible.module_utils.firstlight_releases import (
    ENVIRONMENT,
    RECORD,
    STATE,
    SWITCH,
    folder_of,
    json_text,
    known,
    linked,
    linked_digest,
    load,
    load_json,
    open_switch,
    release,
    service_of,
    start_record,
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
KEY = "VLLM_API_KEY"
PLAIN = re.compile(r"^[A-Za-z0-9_@%+=:,./-]*$")
SECRET_FILES = ("service.env", RECORD)


def next_switch(switch, live, previous, target):
    """Return what switch.json says while release `target` goes live; `switch` is one that is not proven yet."""
    if switch is None:
        return None if target == live else {"from": live, "previous": previous, "to": target}
    if target in (switch["from"], switch["to"]):
        return switch
    if switch["from"] is None:
        # Nothing was ever proven, as by playbooks alone: a person may go back, a failed start does not.
        return {"from": None, "previous": live, "to": target}
    # What was proven before an unproven release stays.
    return {**switch, "to": target}


def links_to_replace(prefix, target, switch):
    """Yield path and target of each link that differs, `current` before `previous`; None for one that goes.

    An environment that was built anew takes the place of the damaged one in every release.
    """
    digest = target["record"]["environment"]
    same = [name for name in known(prefix) if load(prefix, name)["record"]["environment"] == digest]
    folders = [folder_of(prefix, name) for name in dict.fromkeys([target["digest"], *same])]
    links = {os.path.join(folder, ENVIRONMENT): f"../../envs/{target['environment']}" for folder in folders}
    links[os.path.join(prefix, "current")] = os.path.join("releases", target["digest"], ENVIRONMENT)
    if switch is None:
        before = linked_digest(prefix, "previous")
    else:
        before = switch["previous"] if target["digest"] == switch["from"] else switch["from"] or switch["previous"]
    is_whole = before and load(prefix, before)
    links[os.path.join(prefix, "previous")] = os.path.join("releases", before, ENVIRONMENT) if is_whole else None
    for path, text in links.items():
        if (os.readlink(path) if os.path.islink(path) else None) != text:
            yield path, text


def release_files(prefix, target):
    """Return path, text and mode of the files in the folder of a release, the record last."""
    folder = folder_of(prefix, target["digest"])
    return [
        (os.path.join(folder, STATE), json_text(target["state"]), 0o644),
        (os.path.join(folder, RECORD), json_text(target["record"]), 0o600),
    ]


def write_state(prefix, digest):
    """Have the state of a release name the environment that its link leads to."""
    found = load(prefix, digest)
    if found and found["state"] != load_json(folder_of(prefix, digest), STATE):
        write(*release_files(prefix, found)[0])


def write_folder(prefix, target):
    folder = folder_of(prefix, target["digest"])
    os.makedirs(folder, exist_ok=True)
    # The service's account goes through them, whatever the umask is.
    for path in (os.path.dirname(folder), folder):
        os.chmod(path, 0o755)
    replace_link(os.path.join(folder, ENVIRONMENT), f"../../envs/{target['environment']}")
    for path, text, mode in release_files(prefix, target):
        write(path, text, mode)


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


def assignment(name, value):
    """Return a line that systemd's EnvironmentFile and a POSIX shell read alike."""
    if "\n" in value:
        raise HostError(f"environment variable {name} holds a line break", "set firstlight_env without it")
    if PLAIN.match(value):
        return f"{name}={value}\n"
    return f'{name}="' + re.sub(r'(["\\$`])', r"\\\1", value) + '"\n'


def kept_key(before):
    """Return the key of the file that is replaced, without quotes, which other programs would send; None without one."""
    assigned = rf"{KEY}=(.+)$"
    text = before or ""
    found = re.search(f"^{assigned}", text, re.MULTILINE) or re.search(f"^#{assigned}", text, re.MULTILINE)
    if found is None:
        return None
    key = re.sub(r"""^(["'])(.*)\1$""", r"\2", found[1].strip())
    if re.search(r"""[\s"']""", key):
        raise HostError(f"{KEY} in etc/service.env holds blanks or quotes", "choose a key without them")
    return key


def environment_text(service, before):
    """Return the variables of a service. A key stays, as a comment where none is asked for: clients have it when one is asked for again."""
    lines = [assignment(name, str(value)) for name, value in sorted((service.get("environment") or {}).items())]
    key = kept_key(before) or (secrets.token_urlsafe(32) if service["api_key"] else None)
    if key:
        lines.append(f"{'' if service['api_key'] else '#'}{KEY}={key}\n")
    return "".join(lines)


def service_files(prefix, target):
    """Return path, text and mode of the files that the service starts from, its variables first."""
    service, path = target["record"]["service"], os.path.join(prefix, "etc", "service.env")
    files = [(path, environment_text(service, read(path)), 0o600)]
    if service.get("unit"):
        files.append((service["unit_path"], service["unit"], 0o644))
    if service.get("config"):
        files.append((os.path.join(prefix, "etc", "supervisord.conf"), service["config"], 0o644))
    return files


def lacking(prefix, target):
    """Return what a release needs and the host lacks, as text; None where all of it is there."""
    environment = os.path.join(prefix, "envs", target["environment"])
    if not os.path.exists(os.path.join(environment, ".complete")):
        return f"its environment {environment} is not there or not complete"
    model = (target["state"].get("readiness") or target["state"].get("member") or {}).get("model_folder")
    if model and not os.path.exists(os.path.join(model, "config.json")):
        return f"its model {model} is not there"
    image = re.search(r"^Image=(.+)$", target["record"]["service"].get("unit") or "", re.MULTILINE)
    if image and run("podman", "image", "exists", image[1])[0] != 0:
        return f"its image {image[1]} is not in podman"
    return None


def foreign_files(prefix, target):
    """Return files that nobody installed and that decide what starts."""
    hooks = find_hooks(os.path.join(prefix, "envs", target["environment"]))[1]
    return unit_overrides(target["record"]["service"]) + hooks


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
    live, opened = linked_digest(prefix, "current"), open_switch(prefix)
    switch = next_switch(opened, live, linked_digest(prefix, "previous"), target["digest"])
    before = [live]
    if opened and not load_json(prefix, "state.json"):
        # A run that was cut off has switched, and that one may still run.
        before.append(opened["from"] or opened["previous"])
    served, address = load(prefix, target["digest"]), target["record"].get("address")
    # A release that differs by its address alone overwrites the one that serves: there is nothing to return to.
    if served and live == target["digest"] and served["record"].get("address") != address:
        try:
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as tried:
                tried.bind((address, 0))
        except OSError:
            raise HostError(f"the host has no address {address}", "nothing was changed; fix firstlight_bind") from None
    wanted = service_files(prefix, target)
    files = [file for file in wanted if differs(*file)]
    differing = [file for file in release_files(prefix, target) if differs(*file)] + files
    overrides = foreign_files(prefix, target)
    others = other_units(target["record"]["service"])
    links = list(links_to_replace(prefix, target, switch))
    paths = [path for path, _text, _mode in differing] + overrides + others + [path for path, _text in links]
    diff = [file_diff(path, text) for path, text, _mode in differing]
    restart = bool(paths) or read(os.path.join(prefix, "etc", "started")) != start_record(target, wanted[0][1])
    now, other, failing = service_of(target), False, False
    if now["supervisor"] in ("systemd", "systemd-user"):
        other, failing = unit_state(prefix, now)
    elif now["supervisor"] == "supervisor":
        other = has_stopped(int(read(os.path.join(prefix, "logs", "supervisord.pid")) or 0))
    paths += ["the running service"] if other and not paths else []
    if paths and not check:
        write_release(prefix, target, switch, files)
    formers = [service_of(one) for digest in before if digest and (one := load(prefix, digest))]
    former = next((one for one in formers if one != now and one["supervisor"] != "none"), None)
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
    """Return a release with all that it needs. Raises HostError where its record, environment, model or image is gone."""
    target = load(prefix, digest)
    hint = "nothing was changed; to install what the inventory asks for: ./firstlight provision"
    if target is None:
        text = f"is not whole: {folder_of(prefix, digest)}/{RECORD} is missing or damaged"
        raise HostError(f"release {digest} {text}", hint)
    if text := lacking(prefix, target):
        raise HostError(f"release {digest} cannot be served: {text}", hint)
    return target


def planned_release(module):
    """Return the release that the parameters describe."""
    given = module.params
    target = release({**given["release"], "service": given["service"]}, given["state"], given["environment"])
    planned = given["state"].get("release", target["digest"])
    if planned != target["digest"]:
        text = f"the record has the digest {target['digest']}, and the state names release {planned}"
        raise HostError(text, "run ./firstlight provision: it plans both together")
    if not module.check_mode and (text := lacking(given["prefix"], target)):
        raise HostError(f"release {target['digest']} cannot be served: {text}", "run ./firstlight provision")
    return target


def main():
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        mutually_exclusive=[("rollback", "release")],
        required_together=[("environment", "release", "service", "state")],
    )
    prefix, kind = module.params["prefix"], module.params["rollback"]
    try:
        is_question = kind is None and module.params["release"] is None
        if is_question or (kind == "unproven" and not can_return(prefix)):
            served = service_of(linked(prefix, "current"))
            digest = linked_digest(prefix, "current") if is_question else None
            module.exit_json(changed=False, release=digest, **served, paths=[], former=None, restart=False)
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
