"""This machine as a host that is checked, and scripts that stand in for its programs."""

from pathlib import Path

from provision.core.models.inventory import Connection
from provision.fleet.ssh.local import LocalSession

LOCALHOST = LocalSession("localhost", Connection(kind="local"))


def program(path: Path, text: str) -> None:
    """Write a script of the shell in place of what is there."""
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
