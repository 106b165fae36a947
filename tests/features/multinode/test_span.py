"""One host's part in a span: vLLM's arguments and the unit; and span.pyz itself, with small programs in place of vLLM."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.inventory import Span
from provision.core.models.settings import Settings
from provision.core.models.stack import Stack
from provision.features.multinode.onhost.span import main
from provision.features.multinode.onhost.span.server import LOOK_S
from provision.phases.serve.command_line import ServeCommand, serve_command
from provision.phases.serve.model import BUILTIN, ServedModel
from provision.phases.serve.unit import render_service
from tests.serve.conftest import card, facts, stack
from tests.waiting import OUTLASTS_S, PATIENCE_S, wait_until

PREFIX = "/opt/firstlight"
TWO = Span(members=("gpu-1", "gpu-2"), addresses=("10.0.0.1", "10.0.0.2"))


def command(
    name: str, *, made: Stack | None = None, cards: int = 0, content: str = "e", **settings: Any
) -> ServeCommand:
    host = facts(*(card(index) for index in range(cards))).model_copy(update={"host": name})
    wanted = Settings(span=2, expose=True, **settings)
    return serve_command(made or stack(), wanted, host, prefix=PREFIX, model=BUILTIN, span=TWO, content=content)


def unit(made: ServeCommand, **settings: Any) -> list[str]:
    """Return the lines of the unit of a host's service."""
    wanted = Settings(span=2, **settings)
    service = render_service(made, wanted, prefix=PREFIX, supervisor="systemd", user="firstlight", home="/root")
    return (service.unit or "").splitlines()


def test_the_head_serves_and_the_other_host_is_headless() -> None:
    head, other = command("gpu-1"), command("gpu-2")
    meeting = ("--nnodes", "2", "--node-rank", "0", "--master-addr", "10.0.0.1", "--master-port", "29501")
    assert head.argv[-8:] == meeting
    assert other.argv[-9:] == (*meeting[:3], "1", *meeting[4:], "--headless")
    assert head.argv[:-8] == other.argv[:-9]
    assert head.argv[head.argv.index("--tensor-parallel-size") :][:2] == ("--tensor-parallel-size", "2")
    assert [each.environment["VLLM_HOST_IP"] for each in (head, other)] == ["10.0.0.1", "10.0.0.2"]
    assert head.environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert head.devices.processes == 1


def test_with_ray_the_head_alone_has_a_server_and_each_host_its_part_of_ray(cuda_stack: Stack) -> None:
    made = [command(name, made=cuda_stack, cards=8, executor="ray") for name in TWO.members]
    assert made[0].argv[-2:] == ("--distributed-executor-backend", "ray")
    assert "--nnodes" not in made[0].argv
    units = [unit(each, executor="ray") for each in made]
    head, other = [line for lines in units for line in lines if line.startswith("ExecStart=")]
    assert "--ray 8 29501 29503 29582 -- /opt/firstlight/current/bin/vllm serve" in head
    assert other.endswith(" --ray 8 29501 29503 29582")


def test_layers_are_split_over_the_hosts_and_each_layer_over_the_cards_of_one(cuda_stack: Stack) -> None:
    found = command("gpu-1", made=cuda_stack, cards=8).devices
    assert (found.tensor_parallel, found.pipeline_parallel, found.processes, len(found.indexes)) == (8, 2, 8, 8)


def test_the_split_can_be_chosen(cuda_stack: Stack) -> None:
    found = command("gpu-1", made=cuda_stack, cards=4, tensor_parallel=8, pipeline_parallel=1).devices
    assert (found.tensor_parallel, found.pipeline_parallel, found.processes, len(found.indexes)) == (8, 1, 4, 4)


def test_hosts_agree_on_what_they_serve_and_may_differ_in_the_size_of_the_cache() -> None:
    def agreement(name: str = "gpu-1", **more: Any) -> str:
        found = command(name, **more).span
        assert found
        return found.agreement

    assert agreement("gpu-1") == agreement("gpu-2") == agreement("gpu-2", bind="10.0.0.2")
    assert len({agreement(), agreement(content="f"), agreement(max_model_len=99), agreement(vllm_args=("-O0",))}) == 4
    small, large = (
        facts().model_copy(update={"memory": facts().memory.model_copy(update={"total": size})})
        for size in (2**35, 2**36)
    )
    mine = ServedModel(kind="files", name="m")
    made = [
        serve_command(stack(), Settings(span=2), host, prefix=PREFIX, model=mine, span=TWO) for host in (small, large)
    ]
    assert made[0].argv != made[1].argv
    assert made[0].span == made[1].span


def test_the_unit_starts_the_server_with_the_other_hosts() -> None:
    units = [unit(command(name)) for name in TWO.members]
    [start] = [line for line in units[1] if line.startswith("ExecStart=")]
    place = "--rank 1 --addresses 10.0.0.1,10.0.0.2 --port 29502"
    assert start.startswith(f"ExecStart={PREFIX}/current/bin/python -I -S {PREFIX}/bin/span.pyz {place}")
    assert f"-- {PREFIX}/current/bin/vllm serve" in start
    assert "RestartSec=1" in units[1]
    assert ["--port 8000" in line for lines in units for line in lines if "preflight.pyz" in line] == [True, False]


class Hosts:
    """Hosts of one span on this machine, at addresses of its loopback interface; each server writes its process number."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program, self.folder = program, folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.running: list[subprocess.Popen[bytes]] = []

    def start(
        self, rank: int, *, hosts: int = 2, agreement: str = "same", title: str = "sleep"
    ) -> subprocess.Popen[bytes]:
        below = f"bash -c 'exec -a {title} sleep {OUTLASTS_S}' &"
        after = f"exec sleep {OUTLASTS_S}" if title != "sleep" else "wait"
        server = f"echo $GLOO_SOCKET_IFNAME >{self.folder}/interface-{rank}; {below} echo $$ $! >{self.folder}/server-{rank}; {after}"
        words = ["--rank", str(rank), "--addresses", ",".join(["127.0.0.1"] * hosts), "--port", str(self._port)]
        words += ["--agreement", agreement, "--", "sh", "-c", server]
        with self._log(rank).open("w") as log:
            command = [sys.executable, "-I", "-S", str(self._program), *words]
            self.running.append(subprocess.Popen(command, stderr=log))
        return self.running[-1]

    def _log(self, rank: int) -> Path:
        return self.folder / f"log-{rank}"

    def said(self, rank: int) -> str:
        """Return the log of a host."""
        return self._log(rank).read_text()

    def servers(self, rank: int) -> list[int]:
        """Return the processes of a server once it runs."""
        path = self.folder / f"server-{rank}"
        wait_until(lambda: path.exists() and len(path.read_text().split()) == 2)
        return [int(word) for word in path.read_text().split()]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def hosts(program: Path, tmp_path: Path) -> Iterator[Hosts]:
    made = Hosts(program, tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.wait()
    for path in tmp_path.glob("server-*"):
        for pid in map(int, path.read_text().split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_no_server_starts_before_all_hosts_are_there(hosts: Hosts) -> None:
    hosts.start(1, hosts=3)
    hosts.start(0, hosts=3)
    wait_until(lambda: "waits for host 2 (127.0.0.1)\n" in hosts.said(0))
    assert not list(hosts.folder.glob("server-*"))
    hosts.start(2, hosts=3)
    assert all(hosts.servers(rank) for rank in range(3))
    assert (hosts.folder / "interface-1").read_text() == "lo\n"


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("by", ["server", "program", "stop"])
def test_the_end_of_one_host_ends_the_servers_of_all(hosts: Hosts, lost: int, by: str) -> None:
    both = [hosts.start(rank) for rank in range(2)]
    servers = [hosts.servers(rank) for rank in range(2)]
    if by == "server":
        os.kill(servers[lost][0], signal.SIGKILL)
    else:
        os.kill(both[lost].pid, signal.SIGKILL if by == "program" else signal.SIGTERM)
    # Another host that was stopped is no fault of this one, one whose server ended is.
    assert both[1 - lost].wait(PATIENCE_S) == (1 if by == "server" else 75)
    wait_until(lambda: all(map(is_gone, servers[1 - lost])))
    assert f"group: ends on all hosts: host {lost} (127.0.0.1) " in hosts.said(1 - lost)
    assert both[lost].wait(PATIENCE_S) == {"server": 1, "program": -signal.SIGKILL, "stop": 0}[by]
    wait_until(lambda: all(map(is_gone, servers[lost])))


@pytest.mark.slow
def test_a_frozen_host_counts_as_lost(hosts: Hosts) -> None:
    head, other = hosts.start(0), hosts.start(1)
    servers = hosts.servers(0)
    hosts.servers(1)
    os.kill(other.pid, signal.SIGSTOP)
    assert head.wait(PATIENCE_S) == 75
    wait_until(lambda: all(map(is_gone, servers)))
    assert "has been silent for 5 s" in hosts.said(0)


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1], ids=["the server", "a process below it"])
def test_a_stopped_process_counts_as_the_end_of_its_server(hosts: Hosts, part: int) -> None:
    head, other = hosts.start(0), hosts.start(1)
    servers = [hosts.servers(rank) for rank in range(2)]
    os.kill(servers[1][part], signal.SIGSTOP)
    assert (head.wait(PATIENCE_S), other.wait(PATIENCE_S)) == (1, 1)
    wait_until(lambda: all(map(is_gone, [*servers[0], *servers[1]])))
    assert f"a signal has stopped process {servers[1][part]} of the server of this one" in hosts.said(1)
    assert "host 1 (127.0.0.1) reports that a server has ended" in hosts.said(0)


@pytest.mark.slow
def test_a_process_of_the_engine_that_ended_counts_as_the_end_of_its_server(hosts: Hosts) -> None:
    """As vLLM's processes, it has a title; its parent outlives it, and waits for it late."""
    head, other = hosts.start(0, title="VLLM::Worker_TP0"), hosts.start(1)
    servers = [hosts.servers(rank) for rank in range(2)]
    time.sleep(2 * LOOK_S)
    assert head.poll() is None, hosts.said(0)
    os.kill(servers[0][1], signal.SIGKILL)
    assert (head.wait(PATIENCE_S), other.wait(PATIENCE_S)) == (1, 1)
    wait_until(lambda: all(map(is_gone, [*servers[0], *servers[1]])))
    assert f"process {servers[0][1]} (VLLM::Worker_TP0) of the server of this one has ended" in hosts.said(0)


@pytest.mark.slow
def test_a_host_with_another_release_is_not_let_in(hosts: Hosts) -> None:
    hosts.start(0)
    other = hosts.start(1, agreement="different")
    wait_until(lambda: "host 1 (127.0.0.1) has another release, and is not let in" in hosts.said(0))
    other.terminate()
    assert other.wait(PATIENCE_S) == 0
    hosts.start(1)
    assert hosts.servers(0)
    assert hosts.servers(1)


def test_an_address_of_no_interface_is_waited_for(program: Path) -> None:
    words = ["--rank", "0", "--addresses", "192.0.2.1,192.0.2.2", "--port", "1", "--agreement", "a", "--", "true"]
    with subprocess.Popen([sys.executable, str(program), *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        waits = "group: waits for an interface of this host with the address 192.0.2.1 (firstlight_span_address)\n"
        assert process.stderr.readline() == waits
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0, "a stop is no failure"


def test_an_address_may_come_back_and_is_not_waited_for_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch that restarts takes the addresses of an interface away for a while."""
    seen = iter([None, None, "eth0"])
    monkeypatch.setattr(main, "interface_of", lambda _: next(seen))
    assert main.interface_with("192.0.2.1", main.Stop(), 60.0) == "eth0"
    monkeypatch.setattr(main, "interface_of", lambda _: None)
    assert main.interface_with("192.0.2.1", main.Stop(), 0.0) is None
