"""Connections that begin before somebody opens a session."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from provision.core.models.inventory import Connection
from provision.fleet.ssh.sockets import begun, connect_socket


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        yield listening


def to(server: socket.socket, address: str = "127.0.0.1") -> Connection:
    return Connection(kind="ssh", address=address, user="ops", port=server.getsockname()[1], connect_timeout_s=10)


def waiting(server: socket.socket) -> bool:
    return bool(select.select([server], [], [], 0.2)[0])


def test_a_session_takes_the_connection_that_has_begun(server: socket.socket) -> None:
    with begun([to(server)]):
        accepted, peer = server.accept()
        with accepted, connect_socket(to(server)) as taken:
            assert taken.getsockname() == peer
            accepted.sendall(b"SSH-2.0-x\r\n")
            assert taken.recv(20) == b"SSH-2.0-x\r\n"
            # The next one is new.
            with connect_socket(to(server)) as again:
                assert again.getsockname() != peer
        assert waiting(server)


def test_what_nobody_took_is_closed_at_the_end(server: socket.socket) -> None:
    with begun([to(server)]):
        accepted, _ = server.accept()
    with accepted:
        accepted.settimeout(10)
        assert accepted.recv(1) == b""
    with connect_socket(to(server)):
        assert waiting(server)


def test_a_host_that_is_named_twice_is_connected_once(server: socket.socket) -> None:
    with begun([to(server), to(server)]):
        server.accept()[0].close()
        assert not waiting(server)


@pytest.mark.parametrize("begins", [True, False])
def test_a_host_that_refuses_is_an_error_either_way(begins: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        connection = to(gone)
    with begun([connection] if begins else []), pytest.raises(ConnectionRefusedError):
        connect_socket(connection)


def test_a_name_without_an_address_is_an_error_of_the_session_alone(server: socket.socket) -> None:
    connection = to(server, "no-such-host.invalid")
    with begun([connection, to(server)]):
        server.accept()[0].close()
        with pytest.raises(OSError, match=r"."):
            connect_socket(connection)
