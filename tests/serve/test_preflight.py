"""The check before each start, against real sockets and processes."""

import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.phases.serve.onhost.preflight import main as preflight_main
from provision.phases.serve.onhost.preflight import processes
from provision.phases.serve.onhost.preflight.main import Report
from provision.phases.serve.tools import PREFLIGHT, serve_tools
from tests.probe.here import AS_ROOT, program, with_first
from verify.serving.processes import read
from verify.serving.service_plan import assignments

pytestmark = pytest.mark.slow

ME = pwd.getpwuid(os.geteuid()).pw_name

ORPHAN_MAKER = """
import subprocess, sys
# What it starts loses its parent the moment this program ends, as an engine does when its server is killed.
print(subprocess.Popen([sys.argv[1], "60"], executable="/bin/sleep", start_new_session=True,
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)
"""
SERVER = """
import subprocess, sys, time
print(subprocess.Popen(["VLLM::EngineCore", "60"], executable="/bin/sleep", stdout=subprocess.DEVNULL).pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    for name in ("run", "cache", "bin"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def to_end() -> Iterator[list[int]]:
    """PIDs that are ended with the test if they still run."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def orphan(to_end: list[int]) -> Callable[..., int]:
    def make(title: str = "VLLM::EngineCore") -> int:
        done = subprocess.run([sys.executable, "-c", ORPHAN_MAKER, title], capture_output=True, text=True, check=True)
        to_end.append(int(done.stdout))
        return to_end[-1]

    return make


def note(prefix: Path, pid: int) -> Path:
    """Write what the plugin writes in that process."""
    process = read(pid)
    assert process is not None
    path = prefix / f"run/attention-{pid}.json"
    path.write_text(json.dumps({"pid": pid, "start_ticks": process.start_ticks}))
    return path


def preflight_run(prefix: Path, port: int, *more: str) -> subprocess.CompletedProcess[str]:
    tool = serve_tools(prefix / "bin")[PREFLIGHT]
    base = ["--prefix", str(prefix), "--user", ME, "--port", str(port)]
    return subprocess.run(
        [sys.executable, "-I", "-S", tool, *base, *more],
        capture_output=True,
        text=True,
        check=False,
        env=with_first(prefix / "bin"),
    )


def alive(pid: int) -> bool:
    return read(pid) is not None


def test_a_free_host_may_start_without_output(prefix: Path, free_port: int) -> None:
    done = preflight_run(prefix, free_port)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("listen", "bind"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")]
)
def test_the_owner_of_the_port_is_named_and_the_server_does_not_start(prefix: Path, listen: str, bind: str) -> None:
    with socket.socket() as taken:
        taken.bind((listen, 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        done = preflight_run(prefix, port, "--bind", bind, "--", "/bin/echo", "started")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"preflight refuses: port {port} is held by " in done.stderr
    assert f"(pid {os.getpid()}, user {ME})" in done.stderr


def test_the_address_of_another_host_is_refused_with_the_reason(prefix: Path, free_port: int) -> None:
    done = preflight_run(prefix, free_port, "--bind", "192.0.2.1")
    assert f"cannot listen on 192.0.2.1 port {free_port}: Cannot assign requested address" in done.stderr


def test_an_orphan_of_our_service_is_ended(prefix: Path, free_port: int, orphan: Callable[..., int]) -> None:
    pid = orphan()
    note(prefix, pid)
    done = preflight_run(prefix, free_port)
    assert done.returncode == 0, done.stderr
    assert f"ended orphans of an earlier start: VLLM::EngineCore 60 (pid {pid}, user {ME})" in done.stderr
    assert not alive(pid)
    assert list((prefix / "run").iterdir()) == []


STUBBORN = """
import os, signal, sys, time
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), flush=True)
time.sleep(600)
"""


def test_a_worker_that_outlives_its_engine_is_killed(to_end: list[int]) -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        worker = int(engine.stdout.readline())
        to_end.append(worker)
        to_end.append(engine.pid)
        found = [one for pid in (engine.pid, worker) if (one := read(pid)) is not None]
        left = processes.end_processes(found)
        engine.kill()
    assert left == []
    assert not alive(worker)


def test_an_engine_of_another_installation_and_a_recorded_pid_of_another_process_are_not_ended(
    prefix: Path, free_port: int, orphan: Callable[..., int]
) -> None:
    unnoted = orphan()
    pid = orphan()
    path = note(prefix, pid)
    path.write_text(json.dumps({**json.loads(path.read_text()), "start_ticks": 1}))
    preflight_run(prefix, free_port)
    assert alive(unnoted)
    assert alive(pid)
    assert not path.exists()


def test_an_engine_with_a_running_server_is_not_ended(
    prefix: Path, free_port: int, tmp_path: Path, to_end: list[int]
) -> None:
    # An interpreter with the name of the environment's `vllm` runs the file `serve` of its folder: `.../vllm serve`.
    (tmp_path / "serve").write_text(SERVER)
    server = subprocess.Popen(
        ["/opt/x/bin/vllm", "serve"], executable=sys.executable, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    to_end.append(server.pid)
    assert server.stdout is not None
    engine = int(server.stdout.readline())
    to_end.append(engine)
    note(prefix, engine)
    preflight_run(prefix, free_port)
    assert alive(engine)
    server.kill()
    server.wait()
    preflight_run(prefix, free_port)
    assert not alive(engine)


def write_nvidia_smi(folder: Path, used: int) -> None:
    program(
        folder,
        "nvidia-smi",
        'case "$1" in\n'
        f'*compute-apps*) echo "GPU-5c3b, {os.getpid()}, {used}"; echo "GPU-5c3b, 4000000, 12" ;;\n'
        f'*) echo "0, GPU-5c3b, 81559, {used}"; echo "1, GPU-77aa, 81559, 0" ;;\n'
        "esac",
    )


@pytest.mark.parametrize("case", [(70000, "0,1", 1, "refuses"), (500, "0", 0, "also used by"), (70000, "1", 0, "")])
def test_processes_that_use_a_cards_memory_are_named(
    prefix: Path, free_port: int, case: tuple[int, str, int, str]
) -> None:
    used, gpus, code, message = case
    write_nvidia_smi(prefix / "bin", used)
    done = preflight_run(prefix, free_port, "--gpus", gpus, "--memory-share", "0.9")
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    if message:
        assert f"(pid {os.getpid()}, user {ME}) with {used} MiB" in done.stderr
        assert "pid 4000000 (outside this container) with 12 MiB" in done.stderr


def test_a_slice_that_is_gone_prevents_the_start_with_a_stand_in_for_nvidia_smi(prefix: Path, free_port: int) -> None:
    program(
        prefix / "bin",
        "nvidia-smi",
        "echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5c3b)'\necho '  MIG 3g.40gb     Device  0: (UUID: MIG-41aa)'",
    )
    there = preflight_run(prefix, free_port, "--slice", "MIG-41aa")
    assert (there.returncode, there.stderr) == (0, "")
    gone = preflight_run(prefix, free_port, "--slice", "MIG-77bb")
    assert gone.returncode == 1
    assert "there is no slice MIG-77bb" in gone.stderr


@pytest.mark.parametrize(
    ("free", "cards", "is_short"),
    [(64, 2, False), (64, 8, True), (2048, 8, False), (1, 1, False)],
)
def test_the_shared_memory_for_communication_of_cards_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, cards: int, is_short: bool
) -> None:
    found = os.statvfs_result((4096, 4096, free << 8, free << 8, free << 8, 0, 0, 0, 0, 255))
    monkeypatch.setattr("os.statvfs", lambda _: found)
    report = Report()
    preflight_main.check_shared_memory(cards, report, tmp_path)
    assert len(report.problems) == is_short
    assert all("--shm-size=1g" in line for line in report.problems)


def test_a_missing_cache_is_named(prefix: Path, free_port: int) -> None:
    (prefix / "cache").rmdir()
    assert f"cannot use {prefix}/cache: No such file or directory" in preflight_run(prefix, free_port).stderr


def test_a_full_disk_is_reported_with_both_figures(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_main, "LEAST_FREE_CACHE_BYTES", 1 << 60)
    message = preflight_main.cache_problem(prefix)
    assert message is not None
    assert f"the compile caches need {1 << 40} MiB" in message


def test_the_check_becomes_the_server_with_the_services_environment(prefix: Path, free_port: int) -> None:
    (prefix / "service.env").write_text('# ours\nA=1\nB="two words"\nVLLM_API_KEY=sesame\n')
    code = "import os; print(os.environ['A'], os.environ['B'], os.environ['VLLM_API_KEY'], os.getpid())"
    done = preflight_run(
        prefix, free_port, "--environment-file", str(prefix / "service.env"), "--", sys.executable, "-c", code
    )
    assert done.returncode == 0, done.stderr
    *values, pid = done.stdout.split()
    assert values == ["1", "two", "words", "sesame"]
    assert f"preflight: start of {sys.executable} with pid {pid}" in done.stderr


@AS_ROOT
def test_the_server_runs_with_the_services_account(prefix: Path, free_port: int) -> None:
    done = preflight_run(prefix, free_port, "--user", "nobody", "--", "/usr/bin/id", "-un")
    assert (done.returncode, done.stdout) == (0, "nobody\n"), done.stderr


RUN_SERVER = """
import sys
from pathlib import Path
from provision.phases.serve.onhost.preflight import main
main.Path = lambda path: Path(sys.argv[1] + path)
main.run_server(["/usr/bin/id", "-G"], None, "nobody")
"""


@AS_ROOT
def test_the_server_gets_the_groups_of_amds_device_nodes(tmp_path: Path) -> None:
    """In a container their groups may have no names, so that no account can be a member."""
    (tmp_path / "dev/dri").mkdir(parents=True)
    for name, group in {"kfd": 4711, "dri/renderD128": 4712, "dri/card0": 4713, "dri/renderD129": 0}.items():
        path = tmp_path / "dev" / name
        path.touch()
        os.chown(path, 0, group)
    command = [sys.executable, "-c", RUN_SERVER, str(tmp_path)]
    groups = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {"4711", "4712"} <= {*groups}
    assert {"0", "4713"} & {*groups} == set()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A=1\n\n; note\n#B=2\n C=3 ", {"A": "1", "C": "3"}),
        ('A=\'it is\'\nB="a \\"b\\" \\\\ c"', {"A": "it is", "B": 'a "b" \\ c'}),
        ("A=x=y\nB=", {"A": "x=y", "B": ""}),
    ],
)
def test_the_environment_file_is_read_as_by_systemd(text: str, values: dict[str, Any]) -> None:
    assert assignments(text) == values
