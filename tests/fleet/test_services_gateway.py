"""Two services of one host behind a gateway: a user's model with an adapter, and the built-in model. A rollout changes one of them.

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
from tests.fleet.layers import FOR_A_USER
from tests.fleet.serving import PREFIX

pytestmark = pytest.mark.long(seconds=420)
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
    serving = {
        **host.inventory_entry(),
        "firstlight_bind": host.address,
        "firstlight_services": {"plain": {}, "own": {"port": 8001, **model}},
    }
    groups = {
        "gateway": {"hosts": {gateway.name: gateway.inventory_entry()}},
        "serving": {"hosts": {host.name: serving}},
    }
    path = folder / "hosts.yml"
    path.write_text(
        json.dumps(
            {
                "all": {
                    "children": groups,
                    "vars": {"firstlight_expose": True, "firstlight_env": {"OMP_WAIT_POLICY": "passive"}},
                }
            }
        )
    )
    return str(path)


def test_the_gateway_offers_both_models_and_the_adapter(
    firstlight: CommandRunner, hosts: tuple[FleetHost, FleetHost], folder: Path
) -> None:
    ended = firstlight("provision", "-i", inventory(hosts, folder))
    assert ended.code == 0, ended.output()
    gateway, host = hosts
    assert ended.host(gateway.name)["gateway"]["models"] == {
        "builtin-1": [f"{host.name}@plain"],
        "bigrams": [f"{host.name}@own"],
    }
    client = Client(gateway, keys(gateway)["default"])
    answers = {model: client.chat(model, **ASKED) for model in ("builtin-1", "bigrams", "tone")}
    assert {status for status, _ in answers.values()} == {200}
    assert len({text for _, text in answers.values()}) == 3, answers


def test_a_rollout_of_one_service_loses_no_request_of_the_other(
    firstlight: CommandRunner, hosts: tuple[FleetHost, FleetHost], folder: Path
) -> None:
    gateway, host = hosts
    client = Client(gateway, keys(gateway)["default"])
    unit = "systemctl show -P InvocationID firstlight-vllm@{}".format
    before = host.sh(unit("plain")), host.sh(unit("own"))
    done, answers = threading.Event(), list[tuple[int, str]]()

    def load() -> None:
        while not done.wait(0.5):
            answers.append(client.chat("builtin-1", **ASKED))

    worker = threading.Thread(target=load)
    worker.start()
    try:
        ended = firstlight("rollout", "-i", inventory(hosts, folder, max_model_len=512), "--steps", "100")
    finally:
        done.set()
        worker.join()
    assert ended.code == 0, ended.output()
    assert len(answers) > 10
    assert {status for status, _ in answers} == {200}
    assert len(set(answers)) == 1, "greedy answers differ"
    assert host.sh(unit("plain")) == before[0]
    assert host.sh(unit("own")) != before[1]
    assert client.chat("bigrams", **ASKED)[0] == 200
    assert client.chat("tone", **ASKED) != client.chat("bigrams", **ASKED)
    [changed] = json.loads(firstlight("rollout", "status", "--json").out)["hosts"]
    assert (changed["name"], changed["state"]) == (f"{host.name}@own", "updated")


def test_uninstall_leaves_nothing_on_either_host(
    firstlight: CommandRunner, hosts: tuple[FleetHost, FleetHost], folder: Path
) -> None:
    ended = firstlight("uninstall", "-i", inventory(hosts, folder))
    assert ended.code == 0, ended.output()
    for one in hosts:
        left = f"ls -d {PREFIX}* /var/tmp/firstlight-* 2>/dev/null; getent passwd firstlight; ls /etc/systemd/system"
        assert "firstlight" not in one.sh(f"{left}; true")
