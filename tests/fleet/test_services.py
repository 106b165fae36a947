"""Two services of one host behind a gateway, each with a model, a name, a key and a unit of its own: one is changed or removed without the other.

The tests of this file run in order; each continues from the state that the one before left.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.bigrams import write_adapter, write_model
from tests.fleet.command_runner import ROOT, CommandRunner
from tests.fleet.gateway_client import Client, keys
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.inventories import inventory_of_groups
from tests.fleet.layers import FOR_A_USER
from tests.fleet.serving import PREFIX, ask

pytestmark = pytest.mark.long(seconds=350)
UNITS = {name: f"firstlight-vllm@{name}.service" for name in ("plain", "own")}
PORTS = {"plain": 8000, "own": 8001}
SHORTER = 512
"""Tokens of the context that a later release has."""
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "The hosts of"}], "max_tokens": 16, "temperature": 0}


@pytest.fixture(scope="module")
def hosts(fleet: Fleet) -> Iterator[tuple[FleetHost, FleetHost]]:
    """The gateway, and the host of both services."""
    [gateway] = fleet.boot(1, packages=("haproxy", "openssl"))
    [host] = fleet.boot(1, packages=FOR_A_USER)
    yield gateway, host
    gateway.remove()
    host.remove()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("services")
    write_model(folder / "bigrams", (ROOT / "README.md").read_text(encoding="utf-8"))
    write_adapter(folder / "adapter")
    (folder / "template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    return folder


@pytest.fixture(scope="module")
def firstlight(folder: Path) -> CommandRunner:
    # Both releases run on this machine: a difference of their times says nothing.
    return CommandRunner(folder / "logs", "tests.fleet.times_not_compared")


def inventory(hosts: tuple[FleetHost, FleetHost], folder: Path, **own: Any) -> str:
    """Write the inventory; `own` are further settings of the user's model."""
    gateway, host = hosts
    model = {
        "model": str(folder / "bigrams"),
        "served_model_name": "bigrams",
        "lora": {"tone": str(folder / "adapter")},
        "chat_template": str(folder / "template.jinja"),
        "vllm_args": ["--enforce-eager"],
        **own,
    }
    services: dict[str, Any] = {"plain": {}, "own": {"port": 8001, **model}}
    serving = ([host], {"firstlight_bind": host.address, "firstlight_services": services})
    shared = {"firstlight_expose": True, "firstlight_env": {"OMP_WAIT_POLICY": "passive"}}
    return str(inventory_of_groups(folder, {"gateway": ([gateway], {}), "serving": serving}, **shared))


def invocations(host: FleetHost) -> dict[str, str]:
    """Return what identifies the present start of each service."""
    return {name: host.sh(f"systemctl show -P InvocationID {unit}").strip() for name, unit in UNITS.items()}


def served(host: FleetHost, service: str) -> dict[str, Any]:
    """Return the model of a service as it describes it."""
    answer = ask(host, prefix=f"{PREFIX}@{service}", address=host.address, port=PORTS[service])
    model: dict[str, Any] = answer["with"][1]["data"][0]
    return model


def test_two_services_serve_at_once(
    firstlight: CommandRunner, hosts: tuple[FleetHost, FleetHost], folder: Path
) -> None:
    ended = firstlight("provision", "-i", inventory(hosts, folder), code=0)
    gateway, host = hosts
    both = [one for one in ended.summary["hosts"] if one["name"] != gateway.name]
    assert {one["name"]: one["state"] for one in both} == {f"{host.name}@{name}": "serving" for name in UNITS}
    assert {check["status"] for one in both for check in one["checks"]} <= {"ok", "skip"}
    assert {name: served(host, name)["id"] for name in UNITS} == {"plain": "builtin-1", "own": "bigrams"}
    assert len({host.sh(f"sed -n s/^VLLM_API_KEY=//p {PREFIX}@{name}/etc/service.env").strip() for name in UNITS}) == 2
    watchdogs = " ".join(f"firstlight-watchdog@{name}.path" for name in UNITS)
    assert host.sh(f"test ! -e {PREFIX}; systemctl is-enabled {' '.join(UNITS.values())}").split() == ["enabled"] * 2
    assert host.sh(f"systemctl is-active {watchdogs}").split() == ["active"] * 2


def test_the_gateway_offers_both_models_and_the_adapter(
    firstlight: CommandRunner, hosts: tuple[FleetHost, FleetHost]
) -> None:
    gateway, host = hosts
    [record] = [
        one["gateway"]
        for one in json.loads((firstlight.logs / "latest/summary.json").read_text())["hosts"]
        if one.get("gateway")
    ]
    assert record["models"] == {"builtin-1": [f"{host.name}@plain"], "bigrams": [f"{host.name}@own"]}
    client = Client(gateway, keys(gateway)["default"])
    answers = {model: client.chat(model, **ASKED) for model in ("builtin-1", "bigrams", "tone")}
    assert {status for status, _ in answers.values()} == {200}
    assert len({text for _, text in answers.values()}) == 3, answers


def test_a_second_run_changes_nothing(
    firstlight: CommandRunner, hosts: tuple[FleetHost, FleetHost], folder: Path
) -> None:
    ended = firstlight.changes_nothing("provision", "-i", inventory(hosts, folder))
    assert {ended.host(f"{hosts[1].name}@{name}")["state"] for name in UNITS} == {"unchanged"}


def test_a_rollout_of_one_service_loses_no_request_of_the_other(
    firstlight: CommandRunner, hosts: tuple[FleetHost, FleetHost], folder: Path
) -> None:
    gateway, host = hosts
    client, before = Client(gateway, keys(gateway)["default"]), invocations(host)
    done, answers = threading.Event(), list[tuple[int, str]]()

    def load() -> None:
        while not done.wait(0.5):
            answers.append(client.chat("builtin-1", **ASKED))

    worker = threading.Thread(target=load)
    worker.start()
    try:
        ended = firstlight("rollout", "-i", inventory(hosts, folder, max_model_len=SHORTER), "--steps", "100")
    finally:
        done.set()
        worker.join()
    assert ended.code == 0, ended.output()
    assert len(answers) > 10
    assert {status for status, _ in answers} == {200}
    assert len(set(answers)) == 1, "greedy answers differ"
    after = invocations(host)
    assert (after["plain"] == before["plain"], after["own"] == before["own"]) == (True, False)
    assert served(host, "own")["max_model_len"] == SHORTER
    assert client.chat("bigrams", **ASKED)[0] == 200
    assert client.chat("tone", **ASKED) != client.chat("bigrams", **ASKED)
    [changed] = json.loads(firstlight("rollout", "status", "--json").out)["hosts"]
    assert (changed["name"], changed["state"]) == (f"{host.name}@own", "updated")


def test_one_service_returns_without_the_other(
    firstlight: CommandRunner, hosts: tuple[FleetHost, FleetHost], folder: Path
) -> None:
    host, before = hosts[1], invocations(hosts[1])
    firstlight("rollback", "-i", inventory(hosts, folder), "--limit", f"{host.name}@own", code=0)
    assert served(host, "own")["max_model_len"] != SHORTER
    assert invocations(host)["plain"] == before["plain"]


def test_a_service_is_removed_without_the_other_and_the_last_one_takes_the_rest(
    firstlight: CommandRunner, hosts: tuple[FleetHost, FleetHost], folder: Path
) -> None:
    path, host, before = inventory(hosts, folder), hosts[1], invocations(hosts[1])
    ended = firstlight("uninstall", "-i", path, "--limit", f"{host.name}@plain", code=0)
    assert f"which {PREFIX}@own uses too" in ended.out
    left = f"ls -d {PREFIX}*; ls /etc/systemd/system | grep firstlight | grep plain || true"
    assert host.sh(left).split() == [f"{PREFIX}@own"]
    assert invocations(host)["own"] == before["own"]
    assert served(host, "own")["id"] == "bigrams"
    status = json.loads(firstlight("status", "-i", path, "--json").out)
    gone, kept = status[f"{host.name}@plain"], status[f"{host.name}@own"]
    assert (gone["state"], gone["service"], kept["service"]) == (None, None, "active")
    firstlight("uninstall", "-i", path, code=0)
    for one in hosts:
        left = f"ls -d {PREFIX}* /var/tmp/firstlight-* 2>/dev/null; getent passwd firstlight; ls /etc/systemd/system"
        assert "firstlight" not in one.sh(f"{left}; true")
