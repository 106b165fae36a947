"""Two gateways that share an address, with real keepalived and HAProxy on booted hosts, before a stub engine."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fleet.command_runner import CommandRunner, Ended
from tests.fleet.gateway_client import Client, keys
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.inventories import inventory_of_groups
from tests.fleet.stub_hosts import make_serving
from tests.waiting import wait_until

pytestmark = pytest.mark.long(seconds=110)

UNIT = "firstlight-gateway-address.service"


@dataclass(frozen=True)
class Pair:
    """Two gateways, the host behind them, and the command line."""

    gateways: list[FleetHost]
    serving: FleetHost
    address: str
    folder: Path
    command: CommandRunner

    def run(self, address: str | None, *, code: int | None = 0) -> Ended:
        """Set both up, to share an address or none."""
        variables = {} if address is None else {"firstlight_gateway_address": f"{address}/24"}
        path = inventory_of_groups(
            self.folder, {"gateway": (self.gateways, variables), "serving": ([self.serving], {})}
        )
        return self.command("gateway", "-i", str(path), code=code)

    def holder(self) -> list[str]:
        """Return the gateways that have the address."""
        return [host.name for host in self.gateways if host.sh(f"ip -o addr show to {self.address}")]

    def client(self) -> Client:
        """Return a client of the shared address."""
        first, other = self.gateways
        return Client(first, keys(first)["default"], other, address=self.address, timeout_s=2)


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
    ended = pair.run(pair.serving.address, code=None)
    assert ended.code != 0
    told = f"the address {pair.serving.address} is in use, by the machine with the hardware address"
    assert told in ended.out + ended.err
    assert pair.gateways[0].sh("ls /opt/firstlight/gateway 2>/dev/null; true") == ""


def test_the_address_moves_when_its_gateway_ends_and_answers_go_on(pair: Pair) -> None:
    made = pair.run(pair.address)
    assert f"https://{pair.address}:8443/v1" in made.out
    wait_until(lambda: len(pair.holder()) == 1, "no gateway has the address")
    client = pair.client()
    assert client.chat()[0] == 200
    [first] = pair.holder()
    lost, other = sorted(pair.gateways, key=lambda host: host.name != first)
    lost.sh("systemctl stop firstlight-gateway.service")
    wait_until(lambda: pair.holder() == [other.name] and client.chat()[0] == 200, "the address did not move")
    lost.sh("systemctl start firstlight-gateway.service")
    wait_until(lambda: lost.sh(f"systemctl is-active {UNIT}; true") == "active\n", "keepalived was not started again")
    assert pair.holder() == [other.name]
    assert client.chat()[0] == 200


def test_a_second_run_changes_nothing(pair: Pair) -> None:
    assert all(not host["changed"] for host in pair.run(pair.address).summary["hosts"])


def test_without_the_setting_each_gateway_has_its_own_address_again(pair: Pair) -> None:
    pair.run(None)
    assert pair.holder() == []
    for host in pair.gateways:
        left = f"ls -d /etc/systemd/system/{UNIT} /opt/firstlight/gateway-address 2>/dev/null"
        assert host.sh(f"systemctl is-active {UNIT}; {left}; true") == "inactive\n"
        assert host.sh("systemctl is-active firstlight-gateway.service") == "active\n"
