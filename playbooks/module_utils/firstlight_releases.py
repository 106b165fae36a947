"""What a host serves: the request that is kept next to each environment, and the links `current` and `previous`."""

from __future__ import annotations

import json
import os

from ansible.module_utils.firstlight_files import read


def linked(prefix, name):
    """Return the digest that PREFIX/NAME points at, or None."""
    try:
        return os.path.basename(os.readlink(os.path.join(prefix, name)))
    except OSError:
        return None


def request_of(prefix, digest):
    """Return what was asked for with an environment: digest, service, state. None where nothing is recorded."""
    text = read(os.path.join(prefix, "envs", digest or "-", "service.json"))
    return json.loads(text) if text else None


def service_of(request):
    """Return how a request is served: supervisor, name, and the systemd instance that has it."""
    service = request["service"] if request else {"supervisor": "none", "name": ""}
    return {
        "supervisor": service["supervisor"],
        "name": service["name"],
        "scope": "user" if service["supervisor"] == "systemd-user" else "system",
        "uid": os.geteuid(),
    }
