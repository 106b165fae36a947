"""One model over two booted hosts, with real vLLM: its processes speak gloo.

The tests run in order on the same hosts; each continues from the state that the one before left.
"""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from provision.features.firewall.rules import FIREWALL, START, RuleSet
from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import Fleet, FleetHost, write_inventory
from tests.fleet.serving import ask, wait_until_healthy
from tests.fleet.snapshots import boot_serving
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.long(seconds=450)

UNIT = "firstlight-vllm.service"
OTHER_NAME = "first-light-2"
OTHER_PORT = 29701


@pytest.fixture(scope="module")
def hosts(fleet: Fleet) -> list[FleetHost]:
    return boot_serving(fleet, 2)


@pytest.fixture(scope="module")
def inventory(hosts: list[FleetHost], folder: Path) -> str:
    return span_of(folder, hosts)


def span_of(folder: Path, hosts: list[FleetHost], **settings: Any) -> str:
    """Write an inventory whose hosts are one span, with further settings."""
    span: dict[str, Any] = {"firstlight_span": len(hosts), "firstlight_expose": True, "firstlight_firewall": "set"}
    return str(write_inventory(folder, hosts, **span, **settings))


def releases(firstlight: CommandRunner, inventory: str) -> dict[str, str]:
    found = json.loads(firstlight("status", "-i", inventory, "--json").out)
    return {name: each["release"] for name, each in found.items()}


def main_process(host: FleetHost) -> str:
    return host.sh(f"systemctl show -P MainPID {UNIT}").strip()


def events(host: FleetHost, unit: str) -> list[float]:
    """Return the seconds since boot at which systemd said that a unit had started."""
    lines = host.sh(f"journalctl -o json _PID=1 UNIT={unit} JOB_TYPE=start JOB_RESULT=done").splitlines()
    return [int(json.loads(line)["__MONOTONIC_TIMESTAMP"]) / 1e6 for line in lines]


def rules(host: FleetHost, rule_set: RuleSet) -> str:
    """Return the rules of a host that are loaded; empty without any."""
    return host.sh(f"nft list table {rule_set.table}", check=False)


def engines(host: FleetHost) -> set[str]:
    """Return the processes of vLLM on a host, with their starts."""
    lines = host.sh("ps -ww -eo pid=,lstart=,args=").splitlines()
    return {line for line in lines if "VLLM::" in line or "/bin/vllm serve" in line}


def listening(host: FleetHost) -> list[tuple[str, int]]:
    """Return the addresses and ports at which vLLM's processes listen for other hosts."""
    lines = [line.split() for line in host.sh("ss -Hltnp").splitlines() if "VLLM::" in line]
    found = [fields[3].rpartition(":") for fields in lines]
    return [(address, int(port)) for address, _, port in found if address in (host.address, "*", "0.0.0.0")]


def state_of(host: FleetHost) -> str:
    """Return what a host does, for the message of a failed test."""
    return host.sh(
        f"ps -ww -eo pid,ppid,stat,lstart,args; systemctl status {UNIT} --no-pager; journalctl -o short -u {UNIT} | tail -n 30",
        check=False,
    )


def test_two_hosts_serve_one_model_and_the_head_answers_for_both(
    firstlight: CommandRunner, hosts: list[FleetHost], inventory: str
) -> None:
    done = firstlight("provision", "-i", inventory, code=0)
    head, other = (done.host(host.name) for host in hosts)
    assert (head["state"], other["state"]) == ("serving", "serving")
    assert head["serve"]["tokens_answered"] == head["serve"]["tokens_expected"]
    assert len(set(head["serve"]["tokens_answered"])) >= 16
    assert (head["endpoint"], other["endpoint"]) == ("http://127.0.0.1:8000/v1", None)
    for host in (head, other):
        assert host["attention"]["used"] == "CPU_ATTN"
        assert any(line.startswith("4 attention layers") for line in host["attention"]["evidence"]), host["attention"]
    assert ask(hosts[0])["with"][0] == 200
    assert hosts[1].sh("ss -Hltn sport = :8000") == "", "the other host answers nobody"
    for one in hosts:
        began = [events(one, unit)[-1] for unit in (START.unit, UNIT)]
        assert began[0] < began[1], f"rules are loaded before vLLM starts: {began}"
    firstlight.changes_nothing("provision", "-i", inventory)


def test_only_the_two_hosts_reach_the_ports_at_which_their_processes_speak(hosts: list[FleetHost]) -> None:
    for host in hosts:
        found = listening(host)
        assert found
        assert {address for address, port in found if not 32768 <= port <= 60999} <= {"*", "0.0.0.0"}, found
        for _, port in found:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host.address, port), timeout=PATIENCE_S).close()
    assert 29501 in {port for _, port in listening(hosts[0])}
    head, meeting = hosts[0].address, "socket.create_connection(('{}', 29501), 9).close()"
    hosts[1].sh(f'python3 -c "import socket; {meeting.format(head)}"')


def test_the_death_of_one_host_s_server_ends_all_and_all_serve_again(hosts: list[FleetHost]) -> None:
    first, other = hosts
    before = {host.name: (main_process(host), engines(host)) for host in hosts}
    assert all(len(processes) >= 2 for _, processes in before.values()), before
    other.sh(f"kill -9 {main_process(other)}")
    wait_until(
        lambda: not any(engines(host) & before[host.name][1] for host in hosts),
        lambda: "\n".join(map(state_of, hosts)),
        every_s=0.2,
    )
    wait_until_healthy(first)
    for host in hosts:
        assert main_process(host) not in ("0", before[host.name][0])
    assert ask(first)["with"][0] == 200
    log = first.sh(f"journalctl -o cat -u {UNIT}")
    assert f"group: ends on all hosts: host 1 ({other.address}) has hung up" in log
    assert json.loads(first.sh("cat /opt/firstlight/verify/ready.json"))["ready"]


def test_after_it_a_run_proves_both_anew_and_restarts_nothing(
    firstlight: CommandRunner, hosts: list[FleetHost], inventory: str
) -> None:
    before = [main_process(host) for host in hosts]
    done = firstlight("provision", "-i", inventory, code=0)
    assert [done.host(host.name)["serve"]["ready"] for host in hosts] == [True, True]
    assert [main_process(host) for host in hosts] == before


def test_a_rollout_changes_both_hosts_together(
    firstlight: CommandRunner, hosts: list[FleetHost], inventory: str, folder: Path
) -> None:
    before = releases(firstlight, inventory)
    names = {"firstlight_served_model_name": OTHER_NAME, "firstlight_span_port": OTHER_PORT}
    changed = span_of(folder / "changed", hosts, **names)
    firstlight("rollout", "-i", changed, "--steps", "100", code=0)
    record = json.loads(firstlight("rollout", "status", "--json").out)
    assert (record["state"], [host["state"] for host in record["hosts"]]) == ("done", ["updated", "updated"])
    assert [decision["verdict"] for decision in record["decisions"]] == ["go on"]
    after = releases(firstlight, inventory)
    assert all(after[name] != before[name] for name in after)
    assert ask(hosts[0])["with"][1]["data"][0]["id"] == OTHER_NAME
    for host in hosts:
        began = [events(host, unit)[-1] for unit in (START.unit, UNIT)]
        assert began[0] < began[1], f"rules for the new ports are loaded before vLLM starts with them: {began}"
        assert rules(host, START) == "", "those of the host have these ports"
    assert f"tcp dport {OTHER_PORT} " in rules(hosts[0], FIREWALL)
    assert "tcp dport 29501 " not in rules(hosts[0], FIREWALL)


def test_a_rollout_that_fails_on_a_span_returns_both_hosts(
    firstlight: CommandRunner, hosts: list[FleetHost], inventory: str, folder: Path
) -> None:
    before = releases(firstlight, inventory)
    bad = span_of(folder / "bad", hosts, firstlight_vllm_args=["--no-such-option"])
    firstlight("rollout", "-i", bad, "--steps", "100", code=1)
    record = json.loads(firstlight("rollout", "status", "--json").out)
    assert (record["state"], [host["state"] for host in record["hosts"]]) == ("rolled back", ["returned", "returned"])
    assert releases(firstlight, inventory) == before
    assert ask(hosts[0])["with"][1]["data"][0]["id"] == OTHER_NAME
    assert f"tcp dport {OTHER_PORT} " in rules(hosts[0], FIREWALL), "the release of before has its rules"
    assert "tcp dport 29501 " in rules(hosts[0], START), "the one that failed was closed to others, too"
