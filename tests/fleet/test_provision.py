"""From bare hosts to serving ones and back, over SSH, with hosts that cannot reach the internet.

The tests of this file run in order on the same hosts; each continues from the state that the one before left.
"""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.command_runner import CommandRunner, event, play_by_hand, task_ended
from tests.fleet.hosts import NO_SUDO, SUDO_WITH_PASSWORD, SUDO_WITHOUT_PASSWORD, Fleet, FleetHost
from tests.fleet.inventories import inventory_of
from tests.fleet.serving import PREFIX, ask, try_together
from tests.install.test_uninstall import STEPS

pytestmark = pytest.mark.long(seconds=510)
"""Each run installs over SSH all the same, on the host that other tests copy (snapshots.py), and on a bare machine (test_newcomer.py)."""


@pytest.fixture(scope="module")
def hosts(fleet: Fleet) -> list[FleetHost]:
    return fleet.boot(2)


@pytest.fixture(scope="module")
def inventory(hosts: list[FleetHost], folder: Path) -> str:
    """Two ways to become root, sudo with a password and without one; other files have a login as root.

    The connection to the second, which a test switches off, is given up after 15 s without an answer, not after 45.
    """
    with_password, without_password = hosts
    become: dict[str, Any] = {"ansible_become": True}
    entries = {
        with_password.name: with_password.inventory_entry(SUDO_WITH_PASSWORD)
        | become
        | {"ansible_become_password": with_password.admin_password},
        without_password.name: without_password.inventory_entry(SUDO_WITHOUT_PASSWORD) | become,
    }
    entries[without_password.name]["ansible_ssh_common_args"] += " -o ServerAliveInterval=5"
    return str(inventory_of(folder / "both", entries))


def test_a_host_that_fails_during_a_run_is_named_and_stops_no_other(
    firstlight: CommandRunner, hosts: list[FleetHost], inventory: str
) -> None:
    context = firstlight.start("provision", "-i", inventory)
    other, lost = hosts
    firstlight.wait_for(context, task_ended(lost.name, "Install missing operating system packages"))
    lost.kill()
    ended = firstlight.end(context)
    assert ended.code == 1, ended.output()
    assert ended.summary["verdict"] == "red"
    assert ended.host(lost.name)["state"] in ("failed", "unreachable")
    assert lost.name in ended.out.splitlines()[0]
    assert ended.host(other.name)["state"] == "serving", ended.output()


def test_a_serving_host_answers_correctly_with_the_requested_attention(
    firstlight: CommandRunner, hosts: list[FleetHost]
) -> None:
    summary = json.loads((firstlight.logs / "latest" / "summary.json").read_text())
    found, host = summary["hosts"][0], hosts[0]
    assert found["attention"]["used"] == found["attention"]["asked"] == "CPU_ATTN"
    assert found["attention"]["evidence"]
    assert len(found["serve"]["tokens_answered"]) == 32
    assert len(set(found["serve"]["tokens_answered"])) >= 16
    assert {check["status"] for check in found["checks"]} <= {"ok", "skip"}
    answer = ask(host)
    assert answer["with"][0] == 200
    assert answer["without"][0] == 401
    open_routes = {route for route, status in answer["routes"].items() if status != 401}
    assert open_routes == {"GET /health"}
    assert {"POST /invocations", "POST /tokenize", "GET /metrics"} <= answer["routes"].keys()
    assert host.sh(f"stat -c '%a %U' {PREFIX}/etc/service.env").split() == ["600", "root"]


def test_one_file_on_the_host_says_what_it_has(firstlight: CommandRunner, hosts: list[FleetHost]) -> None:
    """Cards, versions of driver, CUDA, torch, flash-attn and vLLM, the fixed point, the attention in use: of this host alone."""
    summary = json.loads((firstlight.logs / "latest" / "summary.json").read_text())
    stack = summary["hosts"][0]["stack"]
    text = hosts[0].sh(f"cat {PREFIX}/logs/summary.txt")
    assert text.startswith("GREEN: 1 host serving")
    assert f"run {summary['run']}" in text
    for line in (
        "no GPU",
        "driver +none, it computes on the CPU",
        "CUDA +none, it computes on the CPU",
        f"torch +{re.escape(stack['torch']['version'])} for cpu",
        "flash-attn +none",
        f"vLLM +{re.escape(stack['vllm']['version'])} for cpu, .*",
        r"attention, b2 s512 h12 d64: [\d.]+ ms on cpu \(torch's flash attention, float32\)",
        "Attention +CPU_ATTN in use",
    ):
        assert re.search(rf"(?m)^ *{line}$", text), (line, text)
    assert hosts[1].name not in text


def test_the_key_is_only_in_its_file_and_every_change_is_recorded(
    firstlight: CommandRunner, hosts: list[FleetHost]
) -> None:
    host, run = hosts[0], (firstlight.logs / "latest").resolve()
    key = host.sh(f"sed -n s/^VLLM_API_KEY=//p {PREFIX}/etc/service.env").strip()
    argv = host.sh("tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID firstlight-vllm.service)/cmdline")
    assert "--port" in argv
    seen = argv + host.sh("systemctl cat firstlight-vllm.service; journalctl --no-pager -o cat")
    seen += "".join(path.read_text(errors="replace") for path in run.rglob("*") if path.is_file())
    assert len(key) >= 16
    assert key not in seen
    changes = [json.loads(line) for line in (run / "changes.jsonl").read_text().splitlines()]
    done = [line for line in changes if line["host"] == host.name]
    assert {line["how"] for line in done} >= {"lock", "send", "ansible", "checks", "proof", "write"}
    assert all(line["by"]["user"] and line["by"]["controller"] for line in done)
    switched = next(line for line in done if line.get("task") == "Start the unit")
    assert "firstlight-vllm.service" in switched["command"]
    assert (switched["changed"], switched["playbook"]) == (True, "serve")


def test_the_second_run_changes_nothing(firstlight: CommandRunner, hosts: list[FleetHost], inventory: str) -> None:
    ended = firstlight("provision", "-i", inventory, "--limit", hosts[0].name, code=0)
    assert (ended.summary["verdict"], ended.summary["changed"]) == ("green", 0)
    assert {host["state"] for host in ended.summary["hosts"]} == {"unchanged"}
    assert all(host["checks"] and host["checks_at"] for host in ended.summary["hosts"])
    assert not (ended.run / "install/tasks.jsonl").exists()
    # One round trip for each host was enough: the login may read everything that a probe compares.
    hosts[0].sh(f"runuser -u {NO_SUDO} -- sha256sum --quiet -c {PREFIX}/state.sha256")


def test_a_second_run_on_a_locked_host_names_the_first_and_an_interrupted_run_leaves_a_summary(
    firstlight: CommandRunner, hosts: list[FleetHost], inventory: str
) -> None:
    last = hosts[1]
    last.boot()
    first = firstlight.start("provision", "-i", inventory, "--limit", last.name)
    firstlight.wait_for(first, event("locked", host=last.name))
    locked_by = (firstlight.logs / "latest").resolve().name
    other = CommandRunner(firstlight.logs.parent / "other-logs")
    second = other("provision", "-i", inventory, "--limit", last.name, code=3)
    assert locked_by in second.out
    ended = firstlight.end(first, send=signal.SIGINT)
    assert ended.code == 130, ended.output()
    summary = json.loads((firstlight.logs / locked_by / "summary.json").read_text())
    assert summary["interrupted"]
    assert summary["hosts"][0]["state"] == "interrupted"


def test_a_run_whose_controller_was_killed_is_continued_by_the_next(
    firstlight: CommandRunner, hosts: list[FleetHost], inventory: str
) -> None:
    last = hosts[1]
    killed = firstlight.start("provision", "-i", inventory, "--limit", last.name)
    firstlight.wait_for(killed, event("sent", host=last.name))
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    kept = (firstlight.logs / "latest" / "changes.jsonl").read_text().splitlines()
    assert json.loads(kept[0])["how"] == "lock"
    ended = firstlight("provision", "-i", inventory, code=0)
    assert ended.summary["changed"] == 1
    assert [host["state"] for host in ended.summary["hosts"]] == ["unchanged", "serving"]
    assert ask(last)["with"][0] == 200


def test_hosts_communicate_on_the_interface_that_connects_them(hosts: list[FleetHost], inventory: str) -> None:
    """Both hosts have a bridge with the same address, as container engines make, and names that resolve to the loopback."""
    for host in hosts:
        host.sh("ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up")
    try:
        record = try_together(Path(inventory), {host.name for host in hosts})
    finally:
        for host in hosts:
            host.sh("ip link delete docker0")
    assert record["status"] == "ok", record
    assert "NCCL_SOCKET_IFNAME==host0 GLOO_SOCKET_IFNAME=host0; unset, gloo announces 127." in record["reason"]
    seen = record["evidence"]["not_reached"]
    assert seen[hosts[0].name] == {hosts[1].name: {"docker0": "leads back to itself"}}
    [meeting] = record["evidence"]["meetings"]
    assert {answer["wrong"] for answer in meeting["hosts"].values()} == {0}


def test_the_playbook_by_hand_changes_nothing(firstlight: CommandRunner, hosts: list[FleetHost]) -> None:
    """On the host whose sudo asks for no password: the file has all hosts of the run, and no password."""
    without_password = hosts[1]
    done = play_by_hand("site", firstlight.logs / "latest/install/hosts.yml", "--limit", without_password.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"(?m)^{without_password.name} .* changed=0 ", done.stdout), done.stdout


def test_rollback_activates_the_previous_environment_and_proves_it(
    firstlight: CommandRunner, hosts: list[FleetHost], inventory: str
) -> None:
    host = hosts[1]
    serving = host.sh(f"readlink {PREFIX}/current").strip()
    firstlight("provision", "-i", inventory, "--limit", host.name, "--vllm", "none", code=0)
    assert host.sh(f"readlink {PREFIX}/current").strip() != serving
    assert host.sh("systemctl is-active firstlight-vllm.service", check=False).strip() != "active"
    ended = firstlight("rollback", "-i", inventory, "--limit", host.name, code=0)
    rows = [json.loads(row) for row in (ended.run / "install/tasks.jsonl").read_text().splitlines()]
    done = [row["task"] for row in rows if row["status"] != "skipped"]
    # The former service is stopped, its units are loaded and it is started: nothing is fetched or built.
    assert {*STEPS} <= {*done}, done
    assert len(done) <= len(STEPS) + 4, done
    assert host.sh(f"readlink {PREFIX}/current").strip() == serving
    assert ended.host(host.name)["serve"]["ready"]
    assert ask(host)["with"][0] == 200


def test_a_start_that_fails_is_reported_with_its_cause(
    firstlight: CommandRunner, hosts: list[FleetHost], inventory: str
) -> None:
    """Three failures of a start, one after the other on a host that served before."""
    host = hosts[1]
    start = ("serve", "-i", inventory, "--limit", host.name)

    host.sh("systemctl stop firstlight-vllm.service; systemd-run --unit=taken python3 -m http.server 8000; sleep 1")
    assert firstlight(*start).cause(host.name) == "port-in-use"
    host.sh("systemctl stop taken firstlight-vllm.service")

    before, started = (firstlight.logs / "latest").resolve(), event("playbook", host=host.name, playbook="serve")
    context = firstlight.start(*start)
    firstlight.wait_for(context, lambda run: run != before and started(run))
    host.sh("kill -KILL $(systemctl show --property=MainPID --value firstlight-vllm.service)")
    assert firstlight.end(context).cause(host.name) == "service-killed"

    host.sh("systemctl stop firstlight-vllm.service; dpkg -P --force-depends libnuma1")
    assert firstlight(*start).cause(host.name) == "libnuma-missing"


def test_a_cause_repaired_by_the_doctor_is_gone(
    firstlight: CommandRunner, hosts: list[FleetHost], inventory: str
) -> None:
    """The missing library of the last failed start, on a host that reaches no package source: its package is sent."""
    host = hosts[1]
    ended = firstlight("doctor", "--limit", host.name, "-i", inventory, "--apply", "--yes", "--json", code=0)
    [document] = json.loads(ended.out)
    assert (document["applied"]["cause"], document["applied"]["gone"]) == ("libnuma-missing", True)
    assert host.sh("dpkg-query -W -f '${Status}' libnuma1").strip() == "install ok installed"


def test_uninstall_leaves_nothing_but_what_it_lists(
    firstlight: CommandRunner, hosts: list[FleetHost], inventory: str
) -> None:
    ended = firstlight("uninstall", "-i", inventory, code=0)
    for host in hosts:
        left = host.sh(
            f"ls -d {PREFIX} /etc/systemd/system/firstlight* /var/tmp/firstlight* 2>/dev/null; "
            # With --all systemd would also list units that it remembers and that no longer exist.
            "getent passwd firstlight; systemctl list-units --plain --no-legend 'firstlight*'; "
            "systemctl list-unit-files --no-legend 'firstlight*'; true"
        )
        assert left.strip() == ""
        assert f"{host.name}: uninstalled" in ended.out
    assert "libnuma1" in ended.out
    changes = [json.loads(line) for line in (ended.run / "changes.jsonl").read_text().splitlines()]
    assert not [line for line in changes if line["how"] == "write"], "nothing is written where all was removed"
