"""TCP connections to hosts."""

import socket

import pytest

from provision.core.models.inventory import Connection
from provision.fleet.ssh.client import connect_socket


def to(server: socket.socket, address: str = "127.0.0.1") -> Connection:
    return Connection(kind="ssh", address=address, user="ops", port=server.getsockname()[1], connect_timeout_s=10)


def test_a_connection_is_open_and_limited_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, connect_socket(to(server)) as opened:
        accepted, peer = server.accept()
        with accepted:
            assert (opened.getsockname(), opened.gettimeout()) == (peer, 10)


def test_a_host_that_refuses_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        connection = to(gone)
    with pytest.raises(ConnectionRefusedError):
        connect_socket(connection)


def test_a_name_without_an_address_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(OSError, match=r"."):
        connect_socket(to(server, "no-such-host.invalid"))


def test_the_zone_of_an_address_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: tuple[str, int], *_: object) -> None:
        raise OSError(f"asked for {address}")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(OSError, match=r"asked for \('fe80::1%lo', 22\)"):
        connect_socket(Connection(kind="ssh", address="fe80::1%lo", user="ops"))
