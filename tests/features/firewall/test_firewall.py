"""Rules of the firewall of hosts behind a gateway: what they are, and what the kernel does with them."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from provision.core.errors import InventoryError
from provision.core.models.facts import Port
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.features.firewall.rules import (
    FIREWALL,
    RULES,
    START,
    Opening,
    RuleSet,
    covers,
    firewall_set,
    openings_of,
    reach_command,
    render,
    source_command,
    sources_of,
)
from provision.fleet.inventory.conflicts import conflicts
from tests.required import do_without
from tests.waiting import PATIENCE_S

OPENINGS = (Opening(8000, ("127.0.0.2", "fd00::2")), Opening(8009, ("127.0.0.2",)))


def host(port: int = 22, **settings: Any) -> Host:
    return Host(
        name="gpu-1", connection=Connection(kind="ssh", address="10.0.0.5", port=port), settings=Settings(**settings)
    )


def ports(*accepted: Opening) -> dict[int, tuple[str, ...]]:
    return {one.port: one.sources for one in accepted}


def test_gateways_reach_server_and_agent_and_monitoring_the_metrics() -> None:
    found = openings_of(host(), 8000, ["10.0.0.2", "10.0.0.1"], ["10.0.0.3"])
    assert ports(*found) == {
        8000: ("10.0.0.1", "10.0.0.2", "10.0.0.3"),
        8009: ("10.0.0.1", "10.0.0.2"),
        9100: ("10.0.0.3",),
    }


def test_without_a_gateway_everybody_may_use_the_server() -> None:
    assert ports(*openings_of(host(), 8000, None, ["10.0.0.3"])) == {9100: ("10.0.0.3",)}
    assert openings_of(host(), 8000, None, None) == ()
    assert openings_of(host(), None, ["10.0.0.1"], None) == (), "it serves nothing"


def test_a_host_that_is_its_own_gateway_is_reached_by_itself_alone() -> None:
    found = openings_of(host(), 8000, [], None)
    assert ports(*found) == {8000: (), 8009: ()}
    assert "accept" not in render(found).split('iifname "lo" accept')[1]


def test_networks_are_accepted_once_in_both_families() -> None:
    accept = ("10.1.0.7/24", "10.1.0.9", "2001:db8::/32", "10.0.0.1")
    found = openings_of(host(firewall_accept=accept), 8000, ["10.0.0.1", "2001:db8::9"], None)
    assert ports(*found)[8000] == ("10.0.0.1", "10.1.0.0/24", "2001:db8::/32")


def test_a_setting_that_is_no_address_is_found() -> None:
    assert [one.setting for one in conflicts(Settings(firewall_accept=("10.0.0.0/24", "gate")))] == ["firewall_accept"]


@pytest.mark.parametrize(
    ("one", "port", "ssh"), [(host(), 22, ()), (host(port=8009), 8000, ()), (host(), 8000, (8000,))]
)
def test_the_port_of_ssh_is_never_closed(one: Host, port: int, ssh: tuple[int, ...]) -> None:
    with pytest.raises(InventoryError, match="is the port of SSH, which no rule may close"):
        openings_of(one, port, ["10.0.0.1"], None, [Port(port=each, process="sshd") for each in ssh])


def test_equal_rules_are_equal_bytes() -> None:
    one = openings_of(host(), 8000, ["10.0.0.2", "10.0.0.1"], None)
    other = openings_of(host(), 8000, ["10.0.0.1", "10.0.0.2", "10.0.0.1"], None)
    assert firewall_set(one, "/opt/firstlight") == firewall_set(other, "/opt/firstlight")
    more = firewall_set(openings_of(host(), 8000, ["10.0.0.1"], None), "/opt/firstlight")
    assert more.digest != firewall_set(one, "/opt/firstlight").digest


@pytest.mark.parametrize("rule_set", [FIREWALL, START])
def test_the_unit_loads_and_removes_the_rules(rule_set: RuleSet) -> None:
    one = firewall_set(OPENINGS, "/opt/firstlight", rule_set)
    unit = one.units[rule_set.unit]
    assert one.running == (rule_set.unit,)
    assert f"ExecStart=nft -f /opt/firstlight/{rule_set.name}/current/{RULES}\n" in unit
    assert f"ExecStop=-nft delete table {rule_set.table}\n" in unit
    assert f"\ntable {rule_set.table} {{\n" in one.files[RULES]
    assert "$" not in unit


def test_rules_cover_openings_that_are_all_among_them() -> None:
    assert covers(render(OPENINGS), OPENINGS[:1])
    assert covers(render(OPENINGS, START), OPENINGS)
    assert not covers(render(OPENINGS[:1]), OPENINGS)
    assert not covers(render([Opening(8000, ("127.0.0.2",))]), OPENINGS[:1]), "another address"
    assert not covers("", OPENINGS)


IN_NAMESPACE = r"""
import json, socket, subprocess, sys, threading
rules, source, reach = json.loads(sys.argv[1])

def run(*words, **more):
    return subprocess.run(words, capture_output=True, text=True, check=True, **more).stdout

# An interface that is not lo: packets between these two ends are those of two machines.
for words in (
    "link set lo up", "link add inner type veth peer name outer", "netns add there", "link set outer netns there",
    "addr add 10.9.0.1/24 dev inner", "addr add fd09::1/64 dev inner nodad", "link set inner up",
):
    run("ip", *words.split())
for words in ("link set lo up", "link set outer up"):
    run("ip", "-n", "there", *words.split())
for number in (2, 3):
    run("ip", "-n", "there", "addr", "add", f"10.9.0.{number}/24", "dev", "outer")
    run("ip", "-n", "there", "addr", "add", f"fd09::{number}/64", "dev", "outer", "nodad")

def listen(port):
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    def serve():
        while True:
            connection, _ = server.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()
    def answer(connection):
        while data := connection.recv(9):
            connection.sendall(data)
    threading.Thread(target=serve, daemon=True).start()

for port in (22, 8000, 8009, 8150):
    listen(port)

CONNECT = '''
import socket, sys
address, port, source = sys.argv[1:]
try:
    socket.create_connection((address, int(port)), timeout=5, source_address=(source, 0) if source else None)
    print("accepted")
except ConnectionRefusedError:
    print("refused")
except OSError as error:
    print(type(error).__name__)
'''

def connect(port, source, address="10.9.0.1", namespace=("ip", "netns", "exec", "there")):
    return run(*namespace, sys.executable, "-c", CONNECT, address, str(port), source).strip()

def look():
    return {
        "gateway": connect(8000, "10.9.0.2"), "other": connect(8000, "10.9.0.3"),
        "gateway agent": connect(8009, "10.9.0.2"), "other agent": connect(8009, "10.9.0.3"),
        "gateway 6": connect(8000, "fd09::2", "fd09::1"), "other 6": connect(8000, "fd09::3", "fd09::1"),
        "other ssh": connect(22, "10.9.0.3"), "other ssh 6": connect(22, "fd09::3", "fd09::1"),
        "member": connect(8150, "10.9.0.2"), "no member": connect(8150, "10.9.0.3"),
        "another address": connect(8150, "fd09::3", "fd09::1"),
        "itself": connect(8000, "", "10.9.0.1", ()), "loopback": connect(8000, "", "127.0.0.1", ()),
    }

def load(text):
    subprocess.run(["nft", "-c", "-f", "-"], input=text, text=True, check=True)
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

found = {"before": look()}
run("nft", "add table inet other")
load(rules[0])
found["loaded"] = look()
found["reached"] = run("ip", "netns", "exec", "there", "sh", "-c", reach).split()
found["source"] = run("ip", "netns", "exec", "there", "sh", "-c", source)
once = run("nft", "list", "ruleset")
load(rules[0])
found["twice is once"] = run("nft", "list", "ruleset") == once
stream = subprocess.Popen(
    ["ip", "netns", "exec", "there", sys.executable, "-uc",
     "import socket\ns = socket.create_connection(('10.9.0.1', 8000), timeout=5, source_address=('10.9.0.2', 0))\n"
     "print('open')\ninput()\ns.sendall(b'word')\nprint(s.recv(9).decode())"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
stream.stdout.readline()
load(rules[1])
found["changed"] = look()
found["stream"] = stream.communicate("\n", timeout=600)[0].strip()
run("nft", "delete", "table", "inet", "firstlight")
found["removed"] = look()
found["tables"] = run("nft", "list", "tables").split("\n")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Load, change and remove rules in a network namespace of its own; return who was accepted each time."""
    lacking = [program for program in ("nft", "ip", "unshare") if shutil.which(program) is None]
    if lacking or os.geteuid() != 0:
        do_without(f"not root, or without {lacking}: rules of the firewall are NOT TESTED in a kernel")
    gateway, other = ("10.9.0.2", "fd09::2"), ("10.9.0.3", "fd09::3")

    def openings(sources: tuple[str, str]) -> tuple[Opening, ...]:
        ports = Opening(8100, sources[:1], last=8200, address="10.9.0.1")
        return Opening(8000, sources), Opening(8009, sources[:1]), ports

    rules = [render(openings(sources)) for sources in (gateway, other)]
    source = source_command([("gpu-1", "10.9.0.1"), ("gpu-2", "fd09::1")])
    reach = reach_command({"gpu-1": ("10.9.0.1", 8000), "gpu-2": ("10.9.0.1", 8010)})
    script = tmp_path_factory.mktemp("namespace") / "try.py"
    script.write_text(IN_NAMESPACE)
    # A mount namespace of its own keeps the names of network namespaces to itself.
    mounted = 'mkdir -p /run/netns && mount -t tmpfs none /run/netns && exec "$@"'
    command = ["unshare", "--net", "--mount", "sh", "-c", mounted, "sh", sys.executable, str(script)]
    given = json.dumps([rules, source, reach])
    done = subprocess.run([*command, given], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


OPEN = "accepted"
ACCEPTED = {"gateway", "gateway agent", "gateway 6", "member"}
REFUSED = {"other", "other agent", "other 6", "no member"}
ALWAYS = {"other ssh", "other ssh 6", "itself", "loopback", "another address"}


def test_only_the_gateway_the_host_itself_and_ssh_are_accepted(found: dict[str, Any]) -> None:
    assert set(found["before"].values()) == {OPEN}
    assert {who for who, what in found["loaded"].items() if what == OPEN} == ACCEPTED | ALWAYS
    assert {what for who, what in found["loaded"].items() if who in REFUSED} == {"refused"}, "at once, not by silence"


def test_loaded_rules_take_the_place_of_those_before_and_running_streams_go_on(found: dict[str, Any]) -> None:
    assert found["twice is once"]
    assert {who for who, what in found["changed"].items() if what == OPEN} == REFUSED | ALWAYS
    assert found["stream"] == "word"


def test_nothing_is_left_of_removed_rules_and_tables_of_others_stay(found: dict[str, Any]) -> None:
    assert found["removed"] == found["before"]
    assert "table inet other" in found["tables"]


def test_a_gateway_says_where_it_connects_from_and_what_it_reaches(found: dict[str, Any]) -> None:
    sources = sources_of(found["source"])
    assert (sources["gpu-1"], sources["gpu-2"][0][:6]) == (("10.9.0.2",), "fd09::")
    assert found["reached"] == ["gpu-1"]
