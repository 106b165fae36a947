"""The files that a service starts from: its variables with the API key, its unit or the supervisor's configuration."""

from __future__ import annotations

import hashlib
import os
import re
import secrets

from ansible.module_utils.firstlight_errors import HostError
from ansible.module_utils.firstlight_files import read

KEY = "VLLM_API_KEY"
PLAIN = re.compile(r"^[A-Za-z0-9_@%+=:,./-]*$")


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
