"""A host's interfaces, and connections between hosts."""

import socket
from collections.abc import Iterator

import pytest

from verify.host.network import Listener, ephemeral_ports, free_port, interfaces, reach

PORTS, HANDED_OUT = range(29610, 29650), range(40000, 40040)


@pytest.fixture
def listener() -> Iterator[Listener]:
    opened = Listener(["127.0.0.1", "127.0.0.2"], (PORTS, HANDED_OUT), "theirs")
    yield opened
    opened.close()


def test_each_address_reports_its_host(listener: Listener) -> None:
    at = [{"address": f"127.0.0.{number}", "ports": listener.ports, "token": "theirs"} for number in (1, 2, 3)]
    assert reach(at, "mine", timeout_s=5.0) == ["reached", "reached", f"connection refused on port {listener.ports[0]}"]
    assert reach(at[:1], "theirs", timeout_s=5.0) == ["reached"]
    astray = [{**at[0], "token": "another's"}]
    assert reach(astray, "mine", timeout_s=5.0) == ["leads to another host"]
    assert reach(astray, "theirs", timeout_s=5.0) == ["leads back to itself"]
    assert reach([], "mine", timeout_s=5.0) == []


def test_a_closed_port_is_named(listener: Listener) -> None:
    shut = free_port(["127.0.0.1"], HANDED_OUT)
    at = {"address": "127.0.0.1", "ports": [listener.ports[0], shut], "token": "theirs"}
    assert reach([at], "mine", timeout_s=5.0) == [f"connection refused on port {shut}"]


def test_a_port_in_use_is_skipped_and_no_free_port_is_an_error(listener: Listener) -> None:
    assert free_port(["127.0.0.1"], PORTS) != listener.ports[0]
    with pytest.raises(OSError, match="in use"):
        free_port(["127.0.0.1"], range(listener.ports[0], listener.ports[0] + 1))


def test_an_address_that_cannot_be_used_leaves_the_others_open() -> None:
    listener = Listener(["198.51.100.77", "127.0.0.1"], (PORTS, HANDED_OUT), "theirs")
    try:
        at = {"address": "127.0.0.1", "ports": listener.ports, "token": "theirs"}
        assert reach([at], "mine", timeout_s=5.0) == ["reached"]
    finally:
        listener.close()


def test_a_silent_listener_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        target = {"address": "127.0.0.1", "ports": [port], "token": "t"}
        assert reach([target], "mine", timeout_s=0.05) == [f"no answer within 0.05 s on port {port}"]


def test_the_interfaces_of_this_machine_exclude_the_loopback() -> None:
    found = interfaces()
    assert not [one for one in found if one["name"] == "lo"]
    for one in found:
        assert free_port([one["address"]], PORTS) in PORTS
    assert ephemeral_ports()[0] < ephemeral_ports()[1]
