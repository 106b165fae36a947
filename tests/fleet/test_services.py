"""Two services of one host behind a gateway, each with a model, a name, a key and a unit of its own: one is changed or removed without the other.

The tests of this file run in order; each continues from the state that the one before left.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.bigrams import write_adapter, write_model
from tests.fleet.command_runner import ROOT, CommandRunner
from tests.fleet.gateway_client import Client, keys, repeated
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.inventories import inventory_of_groups
from tests.fleet.layers import FOR_A_USER
from tests.fleet.serving import PREFIX, ask

pytestmark = pytest.mark.long(seconds=780)
UNITS = {name: f"firstlight-vllm@{name}.service" for name in ("plain", "own")}
PORTS = {"plain": 8000, "own": 8001}
SHORTER = 512
"""Tokens of the context that a later release has."""
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "The hosts of"}], "max_tokens": 16, "temperature": 0}


@dataclass(frozen=True)
class Site:
    """The gateway, the host of both services, and the command line."""

    gateway: FleetHost
    host: FleetHost
    folder: Path
    firstlight: CommandRunner

    def inventory(self, **own: Any) -> str:
        """Write the inventory; `own` are further settings of the user's model."""
        model = {
            "model": str(self.folder / "bigrams"),
            "served_model_name": "bigrams",
            "lora": {"tone": str(self.folder / "adapter")},
            "chat_template": str(self.folder / "template.jinja"),
            "vllm_args": ["--enforce-eager"],
            **own,
        }
        services: dict[str, Any] = {"plain": {}, "own": {"port": 8001, **model}}
        serving = ([self.host], {"firstlight_bind": self.host.address, "firstlight_services": services})
        shared = {"firstlight_expose": True, "firstlight_env": {"OMP_WAIT_POLICY": "passive"}}
        return str(inventory_of_groups(self.folder, {"gateway": ([self.gateway], {}), "serving": serving}, **shared))

    def invocations(self) -> dict[str, str]:
        """Return what identifies the present start of each service."""
        return {name: self.host.sh(f"systemctl show -P InvocationID {unit}").strip() for name, unit in UNITS.items()}

    def served(self, service: str) -> dict[str, Any]:
        """Return the model of a service as it describes it."""
        answer = ask(self.host, prefix=f"{PREFIX}@{service}", address=self.host.address, port=PORTS[service])
        model: dict[str, Any] = answer["with"][1]["data"][0]
        return model

    def client(self) -> Client:
        return Client(self.gateway, keys(self.gateway)["default"])


@pytest.fixture(scope="module")
def site(fleet: Fleet, folder: Path) -> Site:
    [gateway] = fleet.boot(1, packages=("haproxy", "openssl"))
    [host] = fleet.boot(1, packages=FOR_A_USER)
    write_model(folder / "bigrams", (ROOT / "README.md").read_text(encoding="utf-8"))
    write_adapter(folder / "adapter")
    (folder / "template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    # Both releases run on this machine: a difference of their times says nothing.
    return Site(gateway, host, folder, CommandRunner(folder / "logs", "tests.fleet.times_not_compared"))


def test_two_services_serve_at_once(site: Site) -> None:
    ended, host = site.firstlight("provision", "-i", site.inventory(), code=0), site.host
    both = [one for one in ended.summary["hosts"] if one["name"] != site.gateway.name]
    assert {one["name"]: one["state"] for one in both} == {f"{host.name}@{name}": "serving" for name in UNITS}
    assert {check["status"] for one in both for check in one["checks"]} <= {"ok", "skip"}
    assert {name: site.served(name)["id"] for name in UNITS} == {"plain": "builtin-1", "own": "bigrams"}
    assert len({host.sh(f"sed -n s/^VLLM_API_KEY=//p {PREFIX}@{name}/etc/service.env").strip() for name in UNITS}) == 2
    watchdogs = " ".join(f"firstlight-watchdog@{name}.path" for name in UNITS)
    assert host.sh(f"test ! -e {PREFIX}; systemctl is-enabled {' '.join(UNITS.values())}").split() == ["enabled"] * 2
    assert host.sh(f"systemctl is-active {watchdogs}").split() == ["active"] * 2


def test_the_gateway_offers_both_models_and_the_adapter(site: Site) -> None:
    summary = json.loads((site.firstlight.logs / "latest/summary.json").read_text())
    [record] = [one["gateway"] for one in summary["hosts"] if one.get("gateway")]
    assert record["models"] == {"builtin-1": [f"{site.host.name}@plain"], "bigrams": [f"{site.host.name}@own"]}
    client = site.client()
    answers = {model: client.chat(model, **ASKED) for model in ("builtin-1", "bigrams", "tone")}
    assert {status for status, _ in answers.values()} == {200}
    assert len({text for _, text in answers.values()}) == 3, answers


def test_a_second_run_changes_nothing(site: Site) -> None:
    ended = site.firstlight.changes_nothing("provision", "-i", site.inventory())
    assert {ended.host(f"{site.host.name}@{name}")["state"] for name in UNITS} == {"unchanged"}


def test_a_rollout_of_one_service_loses_no_request_of_the_other(site: Site) -> None:
    client, before, shorter = site.client(), site.invocations(), site.inventory(max_model_len=SHORTER)
    with repeated(lambda: client.chat("builtin-1", **ASKED), every_s=0.5) as answers:
        site.firstlight("rollout", "-i", shorter, "--steps", "100", code=0)
    assert len(answers) > 10
    assert {status for status, _ in answers} == {200}
    assert len(set(answers)) == 1, "greedy answers differ"
    after = site.invocations()
    assert (after["plain"] == before["plain"], after["own"] == before["own"]) == (True, False)
    assert site.served("own")["max_model_len"] == SHORTER
    assert client.chat("bigrams", **ASKED)[0] == 200
    assert client.chat("tone", **ASKED) != client.chat("bigrams", **ASKED)
    [changed] = json.loads(site.firstlight("rollout", "status", "--json").out)["hosts"]
    assert (changed["name"], changed["state"]) == (f"{site.host.name}@own", "updated")


def test_one_service_returns_without_the_other(site: Site) -> None:
    before = site.invocations()
    site.firstlight("rollback", "-i", site.inventory(), "--limit", f"{site.host.name}@own", code=0)
    assert site.served("own")["max_model_len"] != SHORTER
    assert site.invocations()["plain"] == before["plain"]


def test_a_service_is_removed_without_the_other_and_the_last_one_takes_the_rest(site: Site) -> None:
    path, host, before, firstlight = site.inventory(), site.host, site.invocations(), site.firstlight
    ended = firstlight("uninstall", "-i", path, "--limit", f"{host.name}@plain", code=0)
    assert f"which {PREFIX}@own uses too" in ended.out
    left = f"ls -d {PREFIX}*; ls /etc/systemd/system | grep firstlight | grep plain || true"
    assert host.sh(left).split() == [f"{PREFIX}@own"]
    assert site.invocations()["own"] == before["own"]
    assert site.served("own")["id"] == "bigrams"
    status = json.loads(firstlight("status", "-i", path, "--json").out)
    gone, kept = status[f"{host.name}@plain"], status[f"{host.name}@own"]
    assert (gone["state"], gone["service"], kept["service"]) == (None, None, "active")
    firstlight("uninstall", "-i", path, code=0)
    for one in (site.gateway, host):
        left = f"ls -d {PREFIX}* /var/tmp/firstlight-* 2>/dev/null; getent passwd firstlight; ls /etc/systemd/system"
        assert "firstlight" not in one.sh(f"{left}; true")
