"""Releases: what a host serves, each in a folder of its own, and the links `current` and `previous`.

PREFIX/releases/DIGEST holds `release.json` (the record; its SHA-256 begins with DIGEST), `state.json` (what PREFIX/state.json
says while it serves) and the link `environment`. PREFIX/current leads to that link, so that one rename switches all of it.

PREFIX/releases/switch.json is the last switch: `from` was proven before it, `previous` came before that, `to` is the new
release. It is written before anything else changes, and over once PREFIX/verify/ready.json proves `to`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets

from ansible.module_utils.firstlight_host import HostError, read, replace_link, write

RECORD, STATE, ENVIRONMENT, SWITCH = "release.json", "state.json", "environment", "switch.json"
KEY = "VLLM_API_KEY"
PLAIN = re.compile(r"^[A-Za-z0-9_@%+=:,./-]*$")


def record_text(record):
    return json.dumps(record, indent=1, sort_keys=True) + "\n"


def release(record, state, environment):
    """Return a release: its digest, record, state, and the folder of its environment below PREFIX/envs."""
    digest = hashlib.sha256(record_text(record).encode()).hexdigest()[:16]
    state = {**state, "release": digest}
    if state.get("environment"):  # one that was built anew took the place of another
        state["environment"] = environment
    if state.get("readiness"):
        state["readiness"] = {**state["readiness"], "release": digest}
    return {"digest": digest, "record": record, "state": state, "environment": environment}


def folder_of(prefix, digest):
    return os.path.join(prefix, "releases", digest)


def link_of(digest):
    """Return the target of PREFIX/current for a release."""
    return os.path.join("releases", digest, ENVIRONMENT)


def load(prefix, digest):
    """Return a release by its digest; None where its folder is not whole."""
    folder = folder_of(prefix, digest)
    try:
        environment = os.path.basename(os.readlink(os.path.join(folder, ENVIRONMENT)))
        found = release(json.loads(read(os.path.join(folder, RECORD)) or "null"), load_json(folder, STATE), environment)
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


def start_caches(releases):
    """Return the names of the folders below PREFIX/cache that the services of releases compile into."""
    values = [value for one in releases for value in (one["record"]["service"].get("environment") or {}).values()]
    return {name for value in values for name in re.findall(r"/cache/(start-[0-9a-f]+)(?:/|$)", str(value))}


def service_of(found):
    """Return how a release is served: supervisor, name, and the systemd instance that has it."""
    service = found["record"]["service"] if found else {"supervisor": "none", "name": ""}
    return {
        "supervisor": service["supervisor"],
        "name": service["name"],
        "scope": "user" if service["supervisor"] == "systemd-user" else "system",
        "uid": os.geteuid(),
    }


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


def release_files(prefix, target):
    """Return path, text and mode of the files in the folder of a release, the record last."""
    folder = folder_of(prefix, target["digest"])
    state = json.dumps(target["state"], indent=1, sort_keys=True) + "\n"
    return [
        (os.path.join(folder, STATE), state, 0o644),
        (os.path.join(folder, RECORD), record_text(target["record"]), 0o600),
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
    replace_link(os.path.join(folder, ENVIRONMENT), os.path.join("..", "..", "envs", target["environment"]))
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


def kept_key(text):
    found = re.search(rf"^{KEY}=(\S+)$", text or "", re.MULTILINE)
    return found.group(1) if found else None


def assignment(name, value):
    """Return a line that systemd's EnvironmentFile and a POSIX shell read alike."""
    if "\n" in value:
        raise HostError(f"environment variable {name} holds a line break", "set firstlight_env without it")
    if PLAIN.match(value):
        return f"{name}={value}\n"
    return f'{name}="' + re.sub(r'(["\\$`])', r"\\\1", value) + '"\n'


def environment_text(service, before):
    lines = [assignment(name, str(value)) for name, value in sorted((service.get("environment") or {}).items())]
    if service["api_key"]:
        lines.append(f"{KEY}={kept_key(before) or secrets.token_urlsafe(32)}\n")
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


def start_record(target, variables):
    """Return what a service is started from: settings, environment, and the hash of its variables with the key."""
    digest = hashlib.sha256(variables.encode()).hexdigest()
    return f"{target['record']['service']['digest']} {target['environment']} {digest}\n"
