"""Commands that query the endpoint of a remote host: OpenSSH itself says what they would connect to."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.inventory import Connection
from provision.fleet.inventory.connections import connection_of
from provision.fleet.inventory.openssh import parse
from provision.fleet.ssh import ssh_command
from provision.report.next_steps import call_commands, ssh_words
from provision.report.shell import command
from tests.report.sample import host

URL = "http://127.0.0.1:8000/v1"
LIMITS = {"batchmode", "connecttimeout", "serveraliveinterval", "hashknownhosts", "stricthostkeychecking", "requesttty"}
"""What a program needs, and a person does not."""
CONFIGURATION = """Host gate
  HostName 203.0.113.9
  Port 2022
  User jump
  IdentityFile /keys/gate
Host one
  HostName 192.0.2.9
  ProxyJump gate
  HostKeyAlias first
  UserKnownHostsFile "/known hosts/a"
"""


def asked(words: Sequence[str]) -> dict[str, list[str]]:
    """Return what OpenSSH would do with a command line."""
    answer = subprocess.run(
        [words[0], "-G", *words[1:]], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    return {key: values for key, values in parse(answer.stdout).items() if key not in LIMITS | {"host"}}


def programs_of(text: str, folder: Path) -> str:
    """Let a shell run a command whose programs only write down how they were called; return that."""
    for name in ("ssh", "curl"):
        program = folder / name
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' {name} \"$@\" >> called\n")
        program.chmod(0o755)
    (folder / "called").unlink(missing_ok=True)
    subprocess.run(["sh", "-c", text], cwd=folder, env={"PATH": f"{folder}:/usr/bin:/bin"}, check=True)
    return (folder / "called").read_text()


def connection(folder: Path, **variables: Any) -> Connection:
    (folder / "config").write_text(CONFIGURATION)
    (folder / "key").touch()
    return connection_of("h", {"ansible_ssh_common_args": f"-F {folder / 'config'}"} | variables, folder)


@pytest.mark.parametrize(
    "variables",
    [
        {"ansible_host": "192.0.2.7"},
        {"ansible_host": "192.0.2.7", "ansible_port": 2222, "ansible_user": "ops"},
        {"ansible_host": "192.0.2.7", "ansible_ssh_private_key_file": "key"},
        {"ansible_host": "one", "ansible_user": "ops"},
        {"ansible_host": "192.0.2.7", "ansible_ssh_extra_args": "-J hop@gate -o IdentitiesOnly=yes"},
        {"ansible_host": "192.0.2.7", "ansible_ssh_extra_args": "-o 'ProxyCommand=nc -X 5 %h %p'"},
        {"ansible_host": "2001:db8::7", "ansible_ssh_extra_args": "-o StrictHostKeyChecking=accept-new"},
    ],
    ids=["defaults", "port and user", "key", "configuration", "jump host", "proxy", "IPv6"],
)
def test_a_printed_command_connects_as_the_product_does(variables: dict[str, Any], tmp_path: Path) -> None:
    found = connection(tmp_path, **variables)
    typed = shlex.split(ssh_words(found))
    assert asked(typed) == asked([word for word in ssh_command(found) if word != "-T"])
    tunnel, _ = call_commands(URL, None, host("h").model_copy(update={"connection": found}), None)
    assert shlex.split(tunnel) == [*typed, "-f", "-N", "-L", "8000:127.0.0.1:8000"]


def test_a_printed_command_is_short_where_little_is_set(tmp_path: Path) -> None:
    found = connection(tmp_path, ansible_host="192.0.2.7", ansible_port=2222, ansible_user="ops")
    assert ssh_words(found) == "ssh -F none -p 2222 ops@192.0.2.7"


def test_the_key_of_the_api_is_read_through_the_same_connection(tmp_path: Path) -> None:
    found = connection(tmp_path, ansible_host="one", ansible_user="ops", ansible_become=True)
    there = host("h").model_copy(update={"connection": found})
    tunnel, curl = call_commands(URL, "/opt/firstlight/etc/service.env", there, "ops")
    read = shlex.quote("sudo sed -n s/^VLLM_API_KEY=//p /opt/firstlight/etc/service.env")
    assert f"$({ssh_words(found)} {read})" in curl
    called = programs_of(curl, tmp_path)
    assert called.startswith("\n".join(shlex.split(ssh_words(found))))
    for entry in (tunnel, curl):
        assert programs_of("\n".join(command(entry)), tmp_path) == programs_of(entry, tmp_path), "broken over lines"


def test_no_password_is_printed(tmp_path: Path) -> None:
    found = connection(
        tmp_path, ansible_host="192.0.2.7", ansible_password="swordfish-1", ansible_become_password="p-2"
    )
    assert "swordfish-1" not in ssh_words(found)
    assert "p-2" not in ssh_words(found)
