"""Where files come from: what settings say for each kind, and what is quicker by the measured bandwidth."""

from __future__ import annotations

from typing import Any

import pytest

from provision.core.models.inventory import Connection, Host, Service
from provision.core.models.settings import Settings
from provision.core.models.staged import FileKind, StagedFile
from provision.features.peers.choice import Choice, choose, controller_s, handed_on_s, way_of
from provision.run.sending import ENOUGH_BYTES, SentBytes

GB = 1_000_000_000


def file(kind: FileKind, name: str = "a", size: int = GB, **more: Any) -> StagedFile:
    return StagedFile(name=name, path="/cache/a", sha256=f"{kind}{name}", size=size, kind=kind, **more)


def host(number: int, source: Any = "auto") -> Host:
    connection = Connection(kind="ssh", address=f"192.0.2.{number}")
    return Host(name=f"gpu-{number}", connection=connection, settings=Settings(source=source))


HUB = file("model", hub_path="org/name/resolve/main/a")


@pytest.mark.parametrize(
    ("source", "ways"),
    [
        ("controller", "controller controller controller controller controller"),
        ("auto", "peers peers peers peers peers"),
        ("host", "host controller controller host controller"),
        ("path", "path path path path path"),
        ({"wheels": "host", "model": "path"}, "host controller peers path path"),
        ({"model": "controller"}, "peers peers peers controller controller"),
    ],
)
def test_each_kind_comes_from_its_source_and_from_the_controller_what_that_cannot_have(source: Any, ways: str) -> None:
    files = [file("wheel"), file("tool"), file("interpreter"), HUB, file("model")]
    one = host(1, source)
    everybody = Choice(frozenset({one.name}), "")
    assert [way_of(one, each, everybody) for each in files] == ways.split()


def test_nothing_is_handed_on_to_a_host_that_takes_no_part() -> None:
    assert way_of(host(1), file("wheel"), Choice(frozenset(), "")) == "controller"


def test_of_services_one_takes_part_for_its_machine() -> None:
    machines = [host(number, "peers") for number in range(3)]
    services = [
        one.model_copy(
            update={
                "name": f"{one.name}@{name}",
                "service": Service(
                    name=name,
                    machine=one.name,
                    services=tuple((f"{one.name}@{other}", one.settings) for other in ("a", "b")),
                ),
            }
        )
        for one in machines
        for name in ("a", "b")
    ]
    assert choose(services).names == {f"{one.name}@a" for one in machines}
    assert choose(services[1:]).names == {"gpu-0@b", "gpu-1@a", "gpu-2@a"}


def test_this_machine_gets_files_from_its_own_cache() -> None:
    local = Host(name="here", connection=Connection(kind="local"), settings=Settings(source="host"))
    assert way_of(local, HUB, Choice(frozenset(), "")) == "controller"


@pytest.mark.parametrize(
    ("hosts", "megabytes_s", "handed_on"),
    [
        (3, 5, True),  # a slow line: the third host has its files from a neighbour long before
        (3, 400, False),
        (4, 100, True),
        (8, 100, True),
        (8, 2000, True),
        (2, 1, False),
    ],
)
def test_auto_hands_on_where_the_bandwidth_and_the_number_of_hosts_make_that_shorter(
    hosts: int, megabytes_s: float, handed_on: bool
) -> None:
    members = [host(number) for number in range(hosts)]
    files = {one.name: [file("wheel", size=4 * GB)] for one in members}
    choice = choose(members, files, megabytes_s * 1e6)
    assert bool(choice.names) is handed_on
    assert hosts == 2 or "/s, " in choice.reason


def test_few_bytes_are_sent_by_the_controller() -> None:
    members = [host(number) for number in range(8)]
    files = {one.name: [file("model", size=1 << 20)] for one in members}
    assert not choose(members, files, 100e6).names
    assert choose(members, files).names, "without a bandwidth the number of hosts decides"


def test_what_is_set_needs_no_bandwidth() -> None:
    members = [host(number, "peers") for number in range(3)]
    files = {one.name: [file("wheel", size=1)] for one in members}
    assert len(choose(members, files, 1e9).names) == 3


def test_hosts_that_need_nothing_from_others_take_no_part() -> None:
    members = [host(number, {"wheels": "path"}) for number in range(8)]
    choice = choose(members, {one.name: [file("wheel")] for one in members})
    assert (choice.names, choice.reason) == (frozenset(), "firstlight_source is `path`")


def test_more_hosts_never_take_less_time_and_handing_on_gains_with_each() -> None:
    for count in range(3, 64):
        assert handed_on_s(count + 1, GB, 50e6) >= handed_on_s(count, GB, 50e6)
    assert handed_on_s(64, GB, 50e6) < controller_s(64, GB, 50e6) / 10


def test_the_bandwidth_counts_the_time_in_which_anything_was_sent_once() -> None:
    seen = SentBytes()
    seen.add(ENOUGH_BYTES - 1, 0.0, 10.0)
    assert seen.bytes_s is None
    seen.add(ENOUGH_BYTES + 1, 2.0, 8.0)
    assert seen.bytes_s == pytest.approx(2 * ENOUGH_BYTES / 10)
    seen.add(2 * ENOUGH_BYTES, 100.0, 110.0)
    assert seen.bytes_s == pytest.approx(4 * ENOUGH_BYTES / 20)
