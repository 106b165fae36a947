"""An inventory that has one machine under two names is refused."""

from pathlib import Path

import pytest

from provision.core.errors import Exit
from provision.core.models.facts import HostFacts, Installed, OperatingSystem, User
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.fleet.inventory.machines import shared_installations, shared_machines
from provision.phases.probe import step as probe
from provision.pipeline import CommandRequest, operations
from provision.pipeline.commands import plan


def host(name: str, *groups: str) -> Host:
    reached = Connection(kind="ssh", address="gpu-1.example", port=22)
    return Host(name=name, groups=groups, connection=reached, settings=Settings())


def facts(name: str, hostname: str = "gpu-1", boot_id: str | None = "b00t") -> HostFacts:
    system = OperatingSystem(hostname=hostname, boot_id=boot_id)
    return HostFacts(
        host=name, probed_at="2026-01-01T00:00:00Z", clock_skew_s=0.0, os=system, user=User(uid=0, home="/root")
    )


def test_three_names_are_all_named() -> None:
    errors = shared_machines([host(name) for name in "abc"], {name: facts(name) for name in "abc"})
    assert str(errors["a"]).startswith("hosts `a`, `b` and `c` are one machine: all answer as `gpu-1`")
    assert "firstlight_services where it serves several models" in str(errors["a"].hint)


def test_a_gateway_is_another_machine() -> None:
    assert shared_machines([host("a"), host("gate", "gateway")], {name: facts(name) for name in ("a", "gate")}) == {}


def test_hosts_of_one_boot_and_hostname_are_one_machine() -> None:
    found = {"a": facts("a"), "b": facts("b"), "c": facts("c", hostname="a-container"), "d": facts("d", boot_id=None)}
    errors = shared_machines([host(name) for name in "abcd"], found)
    assert errors.keys() == {"a", "b"}
    assert str(errors["b"]) == "hosts `a` and `b` are one machine: all answer as `gpu-1` with boot id b00t"


HOME = "/home/ada/.local/share/firstlight"


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({}, True),
        ({"os": OperatingSystem(hostname="gpu-2")}, False),
        ({"os": OperatingSystem(hostname="gpu-2.example.org")}, False),
        ({"os": OperatingSystem()}, False),
        ({"user": User(uid=0)}, False),  # a copy of a machine that serves
        ({"container": "docker"}, False),
        ({"installed": Installed(prefix=HOME)}, False),
        ({"installed": Installed(prefix=HOME, last_verify={"status": "ok"})}, False),
        ({"installed": None}, False),
    ],
)
def test_an_installation_in_a_home_that_two_machines_share_belongs_to_one(
    change: dict[str, object], refused: bool
) -> None:
    theirs = Installed(prefix=HOME, last_verify={"host": "gpu-2"})
    known = {"installed": theirs, "user": User(uid=1000, name="ada", home="/home/ada"), **change}
    errors = shared_installations([host("a"), host("b")], {"a": facts("a").model_copy(update=known)})
    assert [*errors] == ["a"] * refused
    if refused:
        assert str(errors["a"]) == f"{HOME} on host `a` is the installation of machine `gpu-2`, and this is `gpu-1`"
        assert f"delete {HOME}/verify/last.json" in str(errors["a"].hint)


def test_a_machine_that_answers_under_two_names_is_not_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "probe_host", lambda host, *_, **__: facts(host.name))
    path = tmp_path / "hosts.yml"
    path.write_text(
        "all: {vars: {ansible_connection: local}, hosts: {a: {}, b: {firstlight_prefix: /p, firstlight_port: 8001}}}\n"
    )
    request = CommandRequest("plan", path, None, {}, tmp_path / "logs")
    assert plan(request, explain=False) == Exit.USAGE
    said = "hosts `a` and `b` are one machine: all answer as `gpu-1` with boot id b00t"
    assert said in capsys.readouterr().out
    assert operations.status(request) == Exit.USAGE
    assert f"b: {said}\n" in capsys.readouterr().out


def test_no_command_uses_the_installation_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = Installed(prefix=HOME, last_verify={"host": "gpu-2"})
    known = {"installed": theirs, "user": User(uid=1000, name="ada", home="/home/ada")}
    monkeypatch.setattr(probe, "probe_host", lambda host, *_, **__: facts(host.name).model_copy(update=known))
    path = tmp_path / "hosts.yml"
    path.write_text("all: {vars: {ansible_connection: local}, hosts: {a: {}}}\n")
    request = CommandRequest("plan", path, None, {}, tmp_path / "logs")
    assert plan(request, explain=False) == Exit.USAGE
    assert "is the installation of machine `gpu-2`" in capsys.readouterr().out
