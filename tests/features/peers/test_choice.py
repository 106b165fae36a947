"""Where files come from: what settings say for each kind, and how many hosts need some."""

from typing import Any

import pytest

from provision.core.models.inventory import Connection, Host, Service
from provision.core.models.settings import Settings
from provision.core.models.staged import FileKind, StagedFile
from provision.features.peers.choice import Choice, choose, way_of

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


def test_hosts_that_need_nothing_from_others_take_no_part() -> None:
    members = [host(number, {"wheels": "path"}) for number in range(8)]
    choice = choose(members, {one.name: [file("wheel")] for one in members})
    assert (choice.names, choice.reason) == (frozenset(), "firstlight_source is `path`")
