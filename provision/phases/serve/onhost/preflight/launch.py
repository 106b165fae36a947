"""The server, started in this process under the service's account and environment."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path


def read_environment(path: Path) -> dict[str, str]:
    """Read KEY=VALUE lines as systemd reads EnvironmentFile=, without its line continuation."""
    values: dict[str, str] = {}
    for raw in path.read_text().splitlines():
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        key, _, value = line.partition("=")
        quote = value[:1]
        if quote in {"'", '"'} and len(value) > 1 and value.endswith(quote):
            value = value[1:-1]
            if quote == '"':
                value = value.replace('\\"', '"').replace("\\\\", "\\")
        values[key] = value
    return values


def run_server(command: list[str], environment_file: Path | None, user: str) -> None:
    """Switch to the service's environment and account, and replace this process by the server."""
    environment = os.environ | (read_environment(environment_file) if environment_file else {})
    if os.geteuid() == 0:
        account = pwd.getpwnam(user)
        os.initgroups(user, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    # Readiness finds the lines of one start in the log by this line; the server keeps the PID.
    sys.stderr.write(f"preflight: start of {command[0]} with pid {os.getpid()}\n")
    sys.stderr.flush()
    os.execve(command[0], command, environment)  # noqa: S606  # the command is the service's own, no shell is wanted
