"""The switch between releases: what `releases/switch.json` and the links say, and the folders that they lead to."""

from __future__ import annotations

import json
import os

from ansible.module_utils.firstlight_files import replace_link, write
from ansible.module_utils.firstlight_releases import (
    ENVIRONMENT,
    RECORD,
    STATE,
    folder_of,
    known,
    link_of,
    linked_digest,
    load,
    load_json,
    open_switch,
    record_text,
)


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
