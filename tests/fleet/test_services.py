"""Two services of one host: they serve at once, each with a name, a key and a unit of its own, and one is changed or removed without the other.

The tests of this file run in order on one host; each continues from the state that the one before left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.layers import FOR_A_USER
from tests.fleet.serving import PREFIX, ask

pytestmark = pytest.mark.long(seconds=380)
CHAT, EMBED = "firstlight-vllm@chat.service", "firstlight-vllm@embed.service"
PORTS = {"chat": 8000, "embed": 8001}


@pytest.fixture(scope="module")
def host(fleet: Fleet) -> Iterator[FleetHost]:
    [host] = fleet.boot(1, packages=FOR_A_USER)
    yield host
    host.remove()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="module")
def firstlight(folder: Path) -> CommandRunner:
    return CommandRunner(folder / "logs")


def inventory(host: FleetHost, folder: Path, embedding: str) -> str:
    """The inventory, in which the second service has a name for its model."""
    services = {"chat": {}, "embed": {"port": 8001, "served_model_name": embedding}}
    return str(host.inventory(folder / embedding, firstlight_services=services))


def pid(host: FleetHost, unit: str) -> str:
    return host.sh(f"systemctl show -P MainPID {unit}").strip()


def test_two_services_serve_at_once(firstlight: CommandRunner, host: FleetHost, folder: Path) -> None:
    ended = firstlight("provision", "-i", inventory(host, folder, "first-name"))
    assert ended.code == 0, ended.output()
    names = {service: f"{host.name}@{service}" for service in PORTS}
    assert {one["name"]: one["state"] for one in ended.summary["hosts"]} == dict.fromkeys(names.values(), "serving")
    answers = {name: ask(host, prefix=f"{PREFIX}@{name}", port=port)["with"] for name, port in PORTS.items()}
    assert {name: answer[1]["data"][0]["id"] for name, answer in answers.items()} == {
        "chat": "builtin-1",
        "embed": "first-name",
    }
    keys = {host.sh(f"sed -n s/^VLLM_API_KEY=//p {PREFIX}@{name}/etc/service.env").strip() for name in PORTS}
    assert len(keys) == 2
    assert host.sh(f"test ! -e {PREFIX}; systemctl is-enabled {CHAT} {EMBED}").split() == ["enabled", "enabled"]
    assert host.sh("systemctl is-active firstlight-watchdog@chat.path firstlight-watchdog@embed.path").split() == [
        "active",
        "active",
    ]
    assert {check["status"] for one in ended.summary["hosts"] for check in one["checks"]} <= {"ok", "skip"}


def test_a_second_run_changes_nothing(firstlight: CommandRunner, host: FleetHost, folder: Path) -> None:
    ended = firstlight("provision", "-i", inventory(host, folder, "first-name"))
    assert (ended.code, ended.summary["changed"]) == (0, 0), ended.output()
    assert {one["state"] for one in ended.summary["hosts"]} == {"unchanged"}


def test_a_change_of_one_service_leaves_the_other_running(
    firstlight: CommandRunner, host: FleetHost, folder: Path
) -> None:
    before = pid(host, CHAT), pid(host, EMBED)
    ended = firstlight("provision", "-i", inventory(host, folder, "second-name"))
    assert ended.code == 0, ended.output()
    assert {one["name"]: one["state"] for one in ended.summary["hosts"]} == {
        f"{host.name}@chat": "unchanged",
        f"{host.name}@embed": "serving",
    }
    assert pid(host, CHAT) == before[0]
    assert pid(host, EMBED) != before[1]
    returned = firstlight("rollback", "-i", inventory(host, folder, "second-name"), "--limit", f"{host.name}@embed")
    assert returned.code == 0, returned.output()
    assert ask(host, prefix=f"{PREFIX}@embed", port=8001)["with"][1]["data"][0]["id"] == "first-name"
    assert pid(host, CHAT) == before[0]


def test_a_service_is_removed_without_the_other_and_the_last_one_takes_the_rest(
    firstlight: CommandRunner, host: FleetHost, folder: Path
) -> None:
    path = inventory(host, folder, "first-name")
    before = pid(host, EMBED)
    ended = firstlight("uninstall", "-i", path, "--limit", f"{host.name}@chat")
    assert ended.code == 0, ended.output()
    assert f"which {PREFIX}@embed uses too" in ended.out
    assert host.sh(f"ls -d {PREFIX}*; ls /etc/systemd/system | grep firstlight | grep chat || true").split() == [
        f"{PREFIX}@embed"
    ]
    assert pid(host, EMBED) == before
    assert ask(host, prefix=f"{PREFIX}@embed", port=8001)["with"][0] == 200
    status = json.loads(firstlight("status", "-i", path, "--json").out)
    gone, kept = status[f"{host.name}@chat"], status[f"{host.name}@embed"]
    assert (gone["state"], gone["service"], kept["service"]) == (None, None, "active")
    ended = firstlight("uninstall", "-i", path)
    assert ended.code == 0, ended.output()
    assert host.sh(f"ls -d {PREFIX}* /var/tmp/firstlight-* 2>/dev/null; getent passwd firstlight; true") == ""
    assert host.sh("ls /etc/systemd/system | grep firstlight || true") == ""
