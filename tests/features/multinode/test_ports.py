"""Ports at which hosts of a span accept one another."""

from typing import Any

import pytest

from provision.core.errors import InventoryError
from provision.core.models.facts import Port
from provision.core.models.inventory import Connection, Host, Span
from provision.core.models.settings import Settings
from provision.features.firewall.rules import Opening, render
from provision.features.multinode.addresses import chosen_of, span_openings, taken_ports


def member(name: str, port: int = 22, **settings: Any) -> Host:
    span = Span(members=("gpu-1", "gpu-2", "gpu-3"), addresses=("10.1.0.1", "10.1.0.2", "fd01::3"))
    connection = Connection(kind="ssh", address="10.0.0.5", port=port)
    return Host(name=name, connection=connection, settings=Settings(**settings), span=span)


def test_hosts_of_a_span_reach_one_another_where_their_programs_listen() -> None:
    others = ("10.1.0.2", "10.1.0.3")
    assert span_openings(member("gpu-1"), others, (32768, 60999), {22}) == (
        Opening(29501, others, for_span=True),
        Opening(29502, others, for_span=True),
        Opening(32768, others, last=60999, address="10.1.0.1", for_span=True),
    )
    assert span_openings(member("gpu-3"), ["fd01::1"], (50000, 50001), {22}) == (
        Opening(50000, ("fd01::1",), last=50001, address="fd01::3", for_span=True),
    ), "processes meet at the first host"


def test_ray_is_reached_by_the_other_hosts_alone_at_every_address() -> None:
    head, other = member("gpu-1", executor="ray"), member("gpu-2", executor="ray")
    assert span_openings(head, ["10.1.0.2"], (50000, 50001), {22}) == (
        Opening(29501, ("10.1.0.2",), for_span=True),
        Opening(29502, ("10.1.0.2",), for_span=True),
        Opening(29503, ("10.1.0.2",), last=29582, for_span=True),
        Opening(50000, ("10.1.0.2",), last=50001, for_span=True),
    )
    found = span_openings(other, ["10.1.0.1"], (50000, 50001), {22})
    assert [one.ports() for one in found] == ["29503-29582", "50000-50001"]
    assert "        tcp dport 29503-29582 tcp flags & (syn | ack) == syn reject with tcp reset" in render(found)
    with pytest.raises(InventoryError, match="port 29510 of a service is the port of SSH"):
        span_openings(member("gpu-2", executor="ray", port=29510), [], (50000, 50001), {22})
    with pytest.raises(InventoryError, match="port 29503 of a service is the port of SSH"):
        span_openings(other, [], (50000, 50001), {22}, [Port(port=29503, process="sshd")])
    elsewhere = (Port(port=50000, address="192.0.2.7", process="rpc.statd"),)
    assert taken_ports(other, elsewhere) == {22, 50000}
    assert taken_ports(member("gpu-2"), elsewhere) == {22}
    started = (Port(port=22, address="*", process="sshd"), Port(port=40000, address="*", process="ray::RayWorker"))
    assert taken_ports(other, started) == {22}
    assert taken_ports(member("gpu-2"), started) == {22, 40000}


def test_other_services_among_the_chosen_ports_stay_as_they_are() -> None:
    listening = (
        Port(port=22, address="0.0.0.0", process="sshd"),
        Port(port=32768, address="*", process="grpc-server"),
        Port(port=32770, address="10.1.0.2"),
        Port(port=32771, address="10.1.0.2", process="VLLM::Worker_TP"),
        Port(port=32772, address="127.0.0.1", process="containerd"),
        Port(port=32773, address="10.0.0.5", process="prometheus"),
        Port(port=32775, address="::", process="sshd"),
    )
    taken = taken_ports(member("gpu-2"), listening)
    assert taken == {22, 32768, 32770, 32775}
    found = span_openings(member("gpu-2"), ["10.1.0.1"], (32768, 32775), taken)
    assert [one.ports() for one in found] == ["32769", "32771-32774"]
    unknown = [one.model_copy(update={"process": None}) for one in listening]
    assert taken_ports(member("gpu-2"), unknown) == {22}


def test_hosts_of_a_span_do_not_meet_at_the_port_of_ssh() -> None:
    with pytest.raises(InventoryError, match="port 2222 of a service is the port of SSH"):
        span_openings(member("gpu-1", port=2222, span_port=2221), [], (32768, 60999), {22})


@pytest.mark.parametrize(("said", "expected"), [("1024\t65535\n", (1024, 65535)), ("", (32768, 60999))])
def test_the_ports_that_a_system_chooses_from_are_read(said: str, expected: tuple[int, int]) -> None:
    assert chosen_of(said) == expected
