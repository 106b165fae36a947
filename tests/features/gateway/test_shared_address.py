"""The address that gateways share: who may share one, and keepalived's configuration, which keepalived itself reads."""

import subprocess
from pathlib import Path

import pytest

from provision.core.errors import InventoryError
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.features.gateway import haproxy
from provision.features.gateway.backends import certificate_names, reached_at
from provision.features.gateway.shared_address import (
    CONFIG,
    KNOWN,
    address_set,
    find_command,
    interface_of,
    require_free,
    sharing,
)
from provision.fleet.inventory.addresses import gateway_endpoint
from provision.fleet.inventory.conflicts import conflicts
from tests import required

OWN = """1: lo    inet 127.0.0.1/8 scope host lo
2: eth1    inet 10.0.0.{}/24 brd 10.0.0.255 scope global eth1
"""
ANSWERED = "10.0.0.9 dev eth1 lladdr 52:54:00:12:34:56 REACHABLE\n"


def gateway(number: int, address: str | None = "10.0.0.9/24", own: str | None = None) -> Host:
    connection = Connection(kind="ssh", address=own or f"10.0.0.{number}")
    settings = Settings(gateway_address=address)
    return Host(name=f"g{number}", groups=("gateway",), connection=connection, settings=settings)


PAIR = [gateway(1), gateway(2)]


def test_gateways_with_one_address_share_it() -> None:
    other = gateway(3, "10.0.0.8/24")
    assert sharing(PAIR[1], [*PAIR, other]) == PAIR
    assert sharing(gateway(4, None), [*PAIR, gateway(4, None)]) == []


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ([gateway(1)], "no other gateway shares the address 10.0.0.9/24"),
        ([gateway(1), gateway(2, own="gate.example")], "the inventory names it gate.example"),
        ([gateway(1), gateway(9)], "10.0.0.9 is its own address"),
        ([gateway(1), gateway(2, own="2001:db8::2")], "are of two families"),
    ],
)
def test_what_cannot_be_shared_is_refused(hosts: list[Host], message: str) -> None:
    with pytest.raises(InventoryError, match=message):
        sharing(hosts[0], hosts)


@pytest.mark.parametrize(
    ("values", "setting"),
    [
        ({"gateway_address": "10.0.0.9"}, "gateway_address"),
        ({"gateway_address": "gate/24"}, "gateway_address"),
        ({"gateway_address": "127.0.0.1/8"}, "gateway_address"),
        ({"gateway_address": "10.0.0.9/24", "gateway_bind": "10.0.0.1"}, "gateway_bind"),
        ({"gateway_address": "2001:db8::9/64"}, "gateway_bind"),
        ({"gateway_router_id": 7}, "gateway_router_id"),
        ({"gateway_address": "10.0.0.9/24", "gateway_router_id": 7}, None),
        ({"gateway_address": "2001:db8::9/64", "gateway_bind": "::"}, None),
        ({"gateway_address": "10.0.0.9/24", "gateway_bind": "::"}, None),
    ],
)
def test_settings_that_contradict_are_found(values: dict[str, object], setting: str | None) -> None:
    assert [one.setting for one in conflicts(Settings.model_validate(values))] == ([setting] if setting else [])


def test_clients_use_the_shared_address() -> None:
    assert gateway_endpoint(PAIR[0], reached_at(PAIR[0])) == "https://10.0.0.9:8443/v1"
    assert certificate_names(PAIR[0])[:2] == ["IP:10.0.0.9", "IP:10.0.0.1"]


def test_the_interface_is_that_of_the_own_address() -> None:
    assert interface_of(PAIR[1], OWN.format(2)) == "eth1"
    six = "2: eth1    inet6 2001:db8::10/64 scope global\n"
    assert interface_of(gateway(1, "2001:DB8::9/64", "2001:DB8::10"), six) == "eth1"
    with pytest.raises(InventoryError, match="no interface of it has the address"):
        interface_of(PAIR[1], OWN.format(5))


@pytest.mark.parametrize("unit", sorted(Path(haproxy.__file__).parent.glob("*.service")), ids=lambda unit: unit.stem)
def test_units_of_a_gateway_read_their_files_also_below_a_home(unit: Path) -> None:
    assert "\nProtectHome=read-only\n" in unit.read_text()


def test_an_address_in_use_is_refused_unless_a_gateway_has_it() -> None:
    free = [OWN.format(1), OWN.format(2)]
    require_free(PAIR[0], free, free[0])
    with pytest.raises(InventoryError, match="in use, by the machine with the hardware address 52:54:00:12:34:56"):
        require_free(PAIR[0], free, free[0] + ANSWERED)
    held = [free[0] + ANSWERED, free[1] + "2: eth1    inet 10.0.0.9/24 scope global secondary eth1\n"]
    require_free(PAIR[0], held, held[0])
    six = "2: eth1    inet6 2001:db8::9/64 scope global\n2001:db8::9 dev eth1 lladdr 52:54:00:12:34:56 REACHABLE\n"
    require_free(gateway(1, "2001:DB8::9/64", "2001:db8::1"), [six], six)
    require_free(PAIR[0], free, f"{KNOWN}\n{free[0]}{ANSWERED}")


@pytest.mark.parametrize(("shared", "is_known"), [("10.0.0.9/24", True), ("10.0.0.9/25", True), ("10.0.0.8/24", False)])
def test_an_address_is_known_only_to_gateways_that_share_it(shared: str, *, is_known: bool, tmp_path: Path) -> None:
    made = address_set(PAIR[0], PAIR, "eth1", str(tmp_path))
    folder = tmp_path / made.name / "current"
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(made.files[CONFIG])
    known, _, _ = find_command(gateway(1, shared), str(tmp_path)).partition("; ")
    done = subprocess.run(["sh", "-c", known], capture_output=True, text=True, check=False)
    assert done.stdout == (f"{KNOWN}\n" if is_known else "")


@pytest.mark.parametrize(
    "pair", [PAIR, [gateway(1, "2001:db8::9/64", "2001:db8::1"), gateway(2, "2001:db8::9/64", "2001:db8::2")]]
)
def test_keepalived_reads_its_configuration(pair: list[Host], tmp_path: Path) -> None:
    required.program("keepalived")
    interfaces = sorted(path.name for path in Path("/sys/class/net").iterdir())
    interface = next(name for name in interfaces if name != "lo")  # which keepalived refuses
    texts = []
    for host in pair:
        made = address_set(host, pair, interface, "/opt/firstlight")
        assert made.running == tuple(made.units)
        texts.append(made.files[CONFIG])
        (tmp_path / CONFIG).write_text(texts[-1])
        [check] = made.checks
        done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        broken = texts[-1].replace(f"interface {interface}", "interface lo")
        (tmp_path / CONFIG).write_text(broken)
        assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode != 0
    assert [line for line in texts[0].splitlines() if line not in texts[1].splitlines()] == [
        "    priority 200",
        f"    unicast_src_ip {pair[0].connection.address}",
        f"        {pair[1].connection.address}",
    ]
