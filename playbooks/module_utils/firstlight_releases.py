"""Releases: what a host serves, each in a folder of its own, and the links `current` and `previous`.

PREFIX/releases/DIGEST holds `release.json` (the record; its SHA-256 begins with DIGEST, with ADDRESS for the host's own `address`),
`state.json` (what PREFIX/state.json says while it serves) and the link `environment`. PREFIX/current leads to that link, so
that one rename switches all of it.

PREFIX/releases/switch.json is the last switch: `from` was proven before it, `previous` came before that, `to` is the new
release. It is written before anything else changes, and over once PREFIX/verify/ready.json proves `to`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re

from ansible.module_utils.firstlight_host import read

RECORD, STATE, ENVIRONMENT, SWITCH = "release.json", "state.json", "environment", "switch.json"


def json_text(value):
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def release(record, state, environment):
    """Return a release: its digest, record, state, and the folder of its environment below PREFIX/envs."""
    text, address = json_text(record), record.get("address")
    if address:  # as `digest_of` of the controller
        text = re.sub(rf"(?<![\w.:]){re.escape(address)}(?!\w)", "ADDRESS", text)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    state = {**state, "release": digest}
    if state.get("environment"):  # one that was built anew took the place of another
        state["environment"] = environment
    for part in ("readiness", "member"):
        if state.get(part):
            state[part] = {**state[part], "release": digest}
    return {"digest": digest, "record": record, "state": state, "environment": environment}


def folder_of(prefix, digest):
    return os.path.join(prefix, "releases", digest)


def load(prefix, digest):
    """Return a release by its digest; None where its folder is not whole."""
    folder = folder_of(prefix, digest)
    try:
        environment = os.path.basename(os.readlink(os.path.join(folder, ENVIRONMENT)))
        found = release(load_json(folder, RECORD), load_json(folder, STATE), environment)
    except (OSError, ValueError, TypeError):
        return None
    return found if found["digest"] == digest else None


def load_json(folder, name):
    """Return the object in a file; empty where there is none or it is damaged."""
    try:
        found = json.loads(read(os.path.join(folder, name)) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def linked(prefix, name):
    """Return the release that PREFIX/NAME leads to; None where there is none, or its folder is not whole."""
    digest = linked_digest(prefix, name)
    return load(prefix, digest) if digest else None


def linked_digest(prefix, name):
    """Return the digest of the release that PREFIX/NAME leads to, also where its record is damaged."""
    try:
        folder, last = os.path.split(os.readlink(os.path.join(prefix, name)))
    except OSError:
        return None
    return os.path.basename(folder) if last == ENVIRONMENT else None


def known(prefix):
    """Return the digests of all releases whose folders are whole."""
    try:
        names = sorted(os.listdir(os.path.join(prefix, "releases")))
    except OSError:
        return []
    return [name for name in names if load(prefix, name) is not None]


def open_switch(prefix):
    """Return the last switch; None where its release was proven, or serves nothing to prove."""
    switch = load_json(os.path.join(prefix, "releases"), SWITCH)
    target = load(prefix, switch["to"]) if switch else None
    if not switch or (target and target["record"]["service"]["supervisor"] == "none"):
        return None
    return None if load_json(os.path.join(prefix, "verify"), "ready.json").get("release") == switch["to"] else switch


def needed(prefix):
    """Return the releases that must stay: current and previous, and both ends of a switch that is not proven yet."""
    names = [linked_digest(prefix, name) for name in ("current", "previous")]
    names += (open_switch(prefix) or {}).values()
    return [found for digest in dict.fromkeys(filter(None, names)) for found in [load(prefix, digest)] if found]


def service_of(found):
    """Return how a release is served: supervisor, name, and the systemd instance that has it."""
    service = found["record"]["service"] if found else {"supervisor": "none", "name": ""}
    return {
        "supervisor": service["supervisor"],
        "name": service["name"],
        "scope": "user" if service["supervisor"] == "systemd-user" else "system",
        "uid": os.geteuid(),
    }


def start_record(target, variables):
    """Return what a service is started from: settings, environment, and the hash of its variables with the key."""
    digest = hashlib.sha256(variables.encode()).hexdigest()
    return f"{target['record']['service']['digest']} {target['environment']} {digest}\n"
