"""Connections as Fabric makes them; tests/fleet has those to real hosts."""

import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from provision.core.models.inventory import Connection
from provision.fleet.ssh import client
from provision.fleet.ssh.authentication import Login


@pytest.fixture
def often_switched() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often_switched")
def test_connections_that_are_made_at_once_do_not_disturb_each_other() -> None:
    def make(number: int) -> tuple[str, int]:
        connection = Connection(kind="ssh", address=f"192.0.2.{number}", user="ops", port=2200 + number)
        with socket.socket() as channel:
            link = client._link(connection, channel, Login(connection), ())
            return link.host, link.port

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(make, range(1, 200)))
    assert found == [(f"192.0.2.{number}", 2200 + number) for number in range(1, 200)]


def offered_by_a_transport(kind: str, algorithms: dict[str, tuple[str, ...]]) -> list[str]:
    """Return what a transport offers of a kind of algorithms, where an ssh configuration allows these."""
    connection = Connection(kind="ssh", address="192.0.2.1", user="ops", algorithms=algorithms)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return [*getattr(client._transport_factory(connection, ())(ours).get_security_options(), kind)]


@pytest.mark.parametrize(
    ("kind", "setting", "allowed", "offered"),
    [
        ("ciphers", "ciphers", ("aes256-gcm@openssh.com", "aes256-ctr"), {"aes256-gcm@openssh.com", "aes256-ctr"}),
        ("ciphers", "ciphers", ("aes256-ctr",), {"aes256-ctr"}),
        ("kex", "kexalgorithms", ("ecdh-sha2-nistp384",), {"ecdh-sha2-nistp384"}),
    ],
)
def test_only_algorithms_that_the_ssh_configuration_allows_are_offered(
    kind: str, setting: str, allowed: tuple[str, ...], offered: set[str]
) -> None:
    assert {*offered_by_a_transport(kind, {setting: allowed})} == offered
