"""Commands of hints, typed unchanged: they use the same connection as the product, and the host's key is known afterwards."""

import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from provision.core.errors import HostKeyError, TransportError
from provision.core.models.inventory import Host
from provision.core.models.settings import Settings
from provision.fleet.inventory.ssh_config import resolve
from provision.fleet.ssh import open_session
from tests.waiting import PATIENCE_S

RELAY = """
import socket, sys, threading
way = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def back():
    while data := way.recv(65536):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
threading.Thread(target=back, daemon=True).start()
while data := sys.stdin.buffer.raw.read(65536):
    way.sendall(data)
"""


@pytest.fixture
def port() -> Iterator[int]:
    """The port of an SSH server on this machine that shows its key and refuses every login."""
    import paramiko

    key = paramiko.RSAKey.generate(2048)
    listener = socket.create_server(("127.0.0.1", 0))
    transports = []

    def serve() -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(connected)
            transports.append(transport)
            transport.add_server_key(key)
            transport.start_server(event=threading.Event(), server=paramiko.ServerInterface())

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    for transport in transports:
        transport.close()


def host_of(*arguments: str, named: Sequence[str] = ()) -> Host:
    return Host(name="gpu-1", connection=resolve("gpu-1", "gpu-1.behind", arguments, named=named), settings=Settings())


def error_of(host: Host) -> TransportError:
    session = open_session(host)
    try:
        with pytest.raises(TransportError) as caught:
            session.run("true")
    finally:
        session.close()
    return caught.value


def type_it(command: str, folder: Path) -> None:
    """Type the command and answer every question with yes; the login itself fails, which the hint does not promise."""
    yes = folder / "yes"
    yes.write_text("#!/bin/sh\necho yes\n")
    yes.chmod(0o755)
    subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "SSH_ASKPASS": str(yes), "SSH_ASKPASS_REQUIRE": "force"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_the_command_for_a_host_behind_a_proxy_stores_its_key(port: int, tmp_path: Path) -> None:
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY)
    proxy = f"ProxyCommand={shlex.join([sys.executable, str(relay), str(port)])}"
    host = host_of(
        "-F", "none", "-o", proxy, "-o", f"UserKnownHostsFile={tmp_path}/known", named=("-p", "2222", "-l", "me")
    )
    unknown = error_of(host)
    assert isinstance(unknown, HostKeyError)
    type_it((unknown.hint or "").split("then: ")[1], tmp_path)
    assert "[gpu-1.behind]:2222 ssh-rsa" in (tmp_path / "known").read_text()
    assert not isinstance(error_of(host), HostKeyError)


def jumping(port: int, folder: Path) -> Host:
    """A host behind a jump host of a user's own configuration."""
    configuration = folder / "config"
    configuration.write_text(
        f"Host gpu-1.behind\n  ProxyJump the-jump\nHost the-jump\n  HostName 127.0.0.1\n  Port {port}\n"
        f"Host *\n  UserKnownHostsFile {folder}/known\n"
    )
    return host_of("-F", str(configuration))


def test_the_command_for_a_jump_host_stores_its_key(port: int, tmp_path: Path) -> None:
    host = jumping(port, tmp_path)
    unknown = error_of(host)
    assert isinstance(unknown, HostKeyError)
    type_it((unknown.hint or "").split("own: ")[1], tmp_path)
    assert f"[127.0.0.1]:{port} ssh-rsa" in (tmp_path / "known").read_text()
    known = error_of(host)
    assert not isinstance(known, HostKeyError)
    agent, _, commands = (known.hint or "").partition("try it by hand, the jump host first: ")
    assert "ssh-add" in agent
    first, then = commands.split("; then: ")
    assert shlex.split(first)[-1] == shlex.split(then)[-1] == "true"
    assert shlex.split(first)[-2].endswith("@the-jump")
    assert shlex.split(then)[-2].endswith("@gpu-1.behind")


def test_the_commands_for_a_jump_host_with_another_key_replace_the_known_one(port: int, tmp_path: Path) -> None:
    import paramiko

    host = jumping(port, tmp_path)
    other = paramiko.RSAKey.generate(2048)
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} ssh-rsa {other.get_base64()}\n")
    changed = error_of(host)
    assert isinstance(changed, HostKeyError)
    commands = (changed.hint or "").removeprefix("only if you know why it changed: ")
    assert commands.startswith("ssh-keygen -R ")
    type_it(commands, tmp_path)
    assert other.get_base64() not in (tmp_path / "known").read_text()
    assert not isinstance(error_of(host), HostKeyError)
