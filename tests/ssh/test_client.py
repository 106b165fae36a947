"""Connections as Fabric makes them; tests/fleet has those to real hosts."""

from __future__ import annotations

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
            link = client._link(connection, channel, Login(connection))
            return link.host, link.port

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(make, range(1, 200)))
    assert found == [(f"192.0.2.{number}", 2200 + number) for number in range(1, 200)]
