"""Two gateways that share an address, with real keepalived and HAProxy on booted hosts, before a stub engine."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.features.gateway.running import wait_until
from tests.fleet.command_runner import CommandRunner, Ended
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.stub_hosts import make_serving

pytestmark = pytest.mark.long(seconds=45)

CURRENT = "/opt/firstlight/gateway/current"
UNIT = "firstlight-gateway-address.service"


@dataclass(frozen=True)
class Pair:
    """Two gateways, the host behind them, and the command line."""

    gateways: list[FleetHost]
    serving: FleetHost
    address: str
    folder: Path
    command: CommandRunner

    def run(self, address: str | None) -> Ended:
        """Set both up, to share an address or none."""
        variables = {} if address is None else {"firstlight_gateway_address": f"{address}/24"}
        groups = {
            "gateway": {"hosts": {host.name: host.inventory_entry() for host in self.gateways}, "vars": variables},
            "serving": {"hosts": {self.serving.name: self.serving.inventory_entry()}},
        }
        path = self.folder / "hosts.yml"
        path.write_text(json.dumps({"all": {"children": groups}}))
        return self.command("gateway", "-i", str(path))

    def holder(self) -> list[str]:
        """Return the gateways that have the address."""
        return [host.name for host in self.gateways if host.sh(f"ip -o addr show to {self.address}")]

    def client(self) -> Callable[[], int]:
        """Return a request to the shared address, which returns its status, and 0 where nobody answered."""
        pem = "".join(host.sh(f"openssl x509 -in {CURRENT}/certificate.pem") + "\n" for host in self.gateways)
        context = ssl.create_default_context(cadata=pem)
        key = self.gateways[0].sh(f"cut -d' ' -f1 {CURRENT}/clients.map").strip()
        body = json.dumps({"model": "stub", "messages": []}).encode()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"https://{self.address}:8443/v1/chat/completions", body, headers)

        def ask() -> int:
            try:
                with urllib.request.urlopen(request, timeout=2, context=context) as response:
                    return int(response.status)
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                return 0

        return ask


@pytest.fixture(scope="module")
def pair(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Gateways that reach their package sources; nothing is set up."""
    gateways = fleet.boot(2, online=True)
    [serving] = fleet.boot(1)
    make_serving(serving)
    folder = tmp_path_factory.mktemp("pair")
    free = f"{gateways[0].address.rpartition('.')[0]}.250"
    return Pair(gateways, serving, free, folder, CommandRunner(folder / "logs"))


def test_an_address_of_another_machine_is_refused_before_anything_changes(pair: Pair) -> None:
    ended = pair.run(pair.serving.address)
    assert ended.code != 0
    assert (
        f"the address {pair.serving.address} is in use, by the machine with the hardware address"
        in ended.out + ended.err
    )
    assert pair.gateways[0].sh("ls /opt/firstlight/gateway 2>/dev/null; true") == ""


def test_the_address_moves_when_its_gateway_ends_and_answers_go_on(pair: Pair) -> None:
    made = pair.run(pair.address)
    assert made.code == 0, made.out + made.err
    assert f"https://{pair.address}:8443/v1" in made.out
    wait_until(lambda: len(pair.holder()) == 1, "no gateway has the address")
    ask = pair.client()
    assert ask() == 200
    [first] = pair.holder()
    lost, other = sorted(pair.gateways, key=lambda host: host.name != first)
    lost.sh("systemctl stop firstlight-gateway.service")
    wait_until(lambda: pair.holder() == [other.name] and ask() == 200, "the address did not move")
    lost.sh("systemctl start firstlight-gateway.service")
    wait_until(lambda: lost.sh(f"systemctl is-active {UNIT}; true") == "active\n", "keepalived was not started again")
    assert pair.holder() == [other.name]
    assert ask() == 200


def test_a_second_run_changes_nothing(pair: Pair) -> None:
    again = pair.run(pair.address)
    assert again.code == 0
    assert all(not host["changed"] for host in again.summary["hosts"])


def test_without_the_setting_each_gateway_has_its_own_address_again(pair: Pair) -> None:
    made = pair.run(None)
    assert made.code == 0, made.out + made.err
    assert pair.holder() == []
    for host in pair.gateways:
        assert (
            host.sh(f"systemctl is-active {UNIT}; test ! -e /etc/systemd/system/{UNIT} && echo gone")
            == "inactive\ngone\n"
        )
        assert host.sh("systemctl is-active firstlight-gateway.service") == "active\n"
