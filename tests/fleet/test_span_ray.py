"""One model over two booted hosts by Ray, with real vLLM and Ray on CPUs: vLLM has a platform of the tests, which takes Ray there.

The tests run in order on the same hosts; each continues from the state that the one before left.
"""

from pathlib import Path

import pytest

from provision.core.models.settings import Settings
from tests.fleet import ray_on_cpu
from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.serving import ask, wait_until_healthy
from tests.fleet.test_span import UNIT, main_process, span_of, state_of
from tests.waiting import wait_until

pytestmark = pytest.mark.long(seconds=520)

SETTINGS = Settings(span=2, executor="ray")
WORKER = "ray::RayWorkerProc"


@pytest.fixture(scope="module")
def hosts(fleet: Fleet) -> list[FleetHost]:
    booted = fleet.boot(2, packages=("nftables",))
    for host in booted:
        ray_on_cpu.give_platform(host)
    return booted


@pytest.fixture(scope="module")
def inventory(hosts: list[FleetHost], folder: Path) -> str:
    return span_of(folder, hosts, firstlight_executor="ray", firstlight_env={"PYTHONPATH": ray_on_cpu.FOLDER})


def processes(host: FleetHost) -> dict[int, str]:
    """Return the processes of vLLM and Ray on a host, with their command lines."""
    lines = host.sh("ps -ww -u firstlight -o pid=,args=", check=False).splitlines()
    found = {int(pid): args for pid, args in (line.split(None, 1) for line in lines)}
    return {pid: args for pid, args in found.items() if "span.pyz" not in args}


def workers(host: FleetHost) -> list[int]:
    """Return the processes of vLLM that Ray started on a host."""
    return [pid for pid, args in processes(host).items() if args.startswith(WORKER)]


def test_vllm_s_own_platform_takes_no_ray_on_cpus_which_is_refused_before_anything_changes(
    folder: Path, hosts: list[FleetHost], inventory: str
) -> None:
    done = CommandRunner(folder / "refused")("provision", "-i", inventory)
    assert done.code != 0
    assert "current platform cpu does not support ray" in done.output()
    assert all(host.sh("ls -d /opt/firstlight", check=False) == "" for host in hosts)


def test_two_hosts_serve_one_model_by_ray_on_cpus_which_count_as_cards(
    folder: Path, hosts: list[FleetHost], inventory: str
) -> None:
    firstlight = CommandRunner(folder / "logs", "tests.fleet.ray_on_cpu")
    done = firstlight("provision", "-i", inventory)
    assert done.code == 0, "\n".join((done.output(), *map(state_of, hosts)))
    head, other = (done.host(host.name) for host in hosts)
    assert head["serve"]["tokens_answered"] == head["serve"]["tokens_expected"]
    assert (head["endpoint"], other["endpoint"]) == ("http://127.0.0.1:8000/v1", None)
    for host in (head, other):
        assert any(line.startswith("4 attention layers") for line in host["attention"]["evidence"]), host["attention"]
    assert ask(hosts[0])["with"][0] == 200
    assert [len(workers(host)) for host in hosts] == [1, 1]


def test_ray_listens_at_its_own_ports_and_keeps_its_files_and_keys_to_the_service(hosts: list[FleetHost]) -> None:
    known = range(SETTINGS.ray_ports[0], SETTINGS.ray_ports[1] + 1)
    for host in hosts:
        lines = [line.split() for line in host.sh("ss -Hltnp").splitlines()]
        ports = {int(fields[3].rpartition(":")[2]) for fields in lines if "raylet" in fields[5] or "ray::" in fields[5]}
        assert {port for port in ports if not 32768 <= port <= 60999} <= {*known}, lines
        assert host.sh("find /tmp /var/tmp -maxdepth 1 -name 'ray*'") == ""
        key = host.sh("sed -n 's/^VLLM_API_KEY=//p' /opt/firstlight/etc/service.env").strip()
        assert not [args for args in processes(host).values() if key and key in args]
        [worker] = workers(host)
        held = host.sh(f"tr '\\0' '\\n' </proc/{worker}/environ")
        assert f"VLLM_API_KEY={key}\n" in held or not key
    rules = hosts[1].sh("nft list table inet firstlight")
    assert "tcp dport {}-{} ".format(*SETTINGS.ray_ports) in rules


def test_the_death_of_a_process_that_ray_started_ends_all_and_all_serve_again(hosts: list[FleetHost]) -> None:
    head, other = hosts
    before = {host.name: {*processes(host)} for host in hosts}
    mains = [main_process(host) for host in hosts]
    [worker] = workers(other)
    other.sh(f"kill -9 {worker}")
    wait_until(
        lambda: not any({*processes(host)} & before[host.name] for host in hosts),
        lambda: "\n".join(map(state_of, hosts)),
        every_s=0.2,
    )
    wait_until_healthy(head)
    assert ask(head)["with"][0] == 200
    assert all(main_process(host) not in ("0", main) for host, main in zip(hosts, mains, strict=True))
    assert "group: ends on all hosts: " in head.sh(f"journalctl -o cat -u {UNIT}")
