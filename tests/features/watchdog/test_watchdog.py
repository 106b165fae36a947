"""The program that acts on a host: what it writes down of processes that hang, when it restarts their unit, and when it does not."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.features.watchdog.onhost import watchdog
from tests.features.watchdog.full_disk import full_disk
from tests.serve.test_plugin import PLUGIN
from tests.waiting import wait_until

UNIT = "stub.service"
REASON = "frozen: has requests and has computed nothing for 30 s"
DEADLOCK = """
import threading
from firstlight_attention import stacks
stacks.register()
lock = threading.Lock()
def step_of_a_worker():
    with lock:
        with lock:
            pass
print("ready", flush=True)
step_of_a_worker()
"""
SYSTEMCTL = """#!/bin/sh
printf '%s\\n' "$*" >>"{folder}/asked"
[ "$1" != show ] || cat "{folder}/state"
"""


class Host:
    """A prefix, a unit whose processes run, and a systemctl that writes down what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.prefix = folder, folder / "prefix"
        self.request = self.prefix / "run/hang"
        self.processes: list[subprocess.Popen[str]] = []
        for name in ("run", "logs", "health-agent", "current/bin"):
            (self.prefix / name).mkdir(parents=True)
        (folder / "systemctl").write_text(SYSTEMCTL.format(folder=folder))
        (folder / "systemctl").chmod(0o755)
        self.state()
        self.request.write_text(f"{REASON}\n")

    def state(self, active: str = "active", job: str = "") -> None:
        (self.folder / "state").write_text(f"ActiveState={active}\nJob={job}\nControlGroup=/stub\n")

    def start(self, code: str, title: str) -> subprocess.Popen[str]:
        """Start a process of the unit, and wait until it says that it is ready."""
        process = subprocess.Popen(
            [title, "-c", code],
            executable=sys.executable,
            env={"PYTHONPATH": str(PLUGIN)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        self.processes.append(process)
        (self.folder / "stub.procs").write_text("\n".join(str(one.pid) for one in self.processes))
        return process

    def act(self, restarts: int = 3) -> str | None:
        return watchdog.try_to_act(self.prefix, UNIT, restarts, REASON)

    def asked(self) -> list[str]:
        """Return what systemctl was asked to do."""
        lines = (self.folder / "asked").read_text().splitlines()
        return [line for line in lines if not line.startswith("show ")]

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.prefix / "health-agent/watchdog.json").read_text())
        return found

    def dump(self) -> str:
        return Path(self.record()["events"][-1]["dump"]).read_text()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(watchdog, "CONTROL_GROUPS", (f"{tmp_path}{{}}.procs",))
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def test_a_deadlock_is_written_down_and_the_unit_restarted(host: Host) -> None:
    worker = host.start(DEADLOCK, "VLLM::Worker_TP1")
    wait_until(lambda: Path(f"/proc/{worker.pid}/wchan").read_text() != "0", "it never waits")
    assert host.act() is None
    dump = host.dump()
    assert dump.startswith(f"down: {REASON}\n"), "the doctor recognises it"
    assert f"process {worker.pid}: VLLM::Worker_TP1" in dump
    assert "step_of_a_worker" in dump.partition("Python stacks")[2]
    assert f"thread {worker.pid} " in dump
    assert host.asked() == [f"kill --signal=KILL {UNIT}", f"reset-failed {UNIT}", f"restart --no-block {UNIT}"]
    [event] = host.record()["events"]
    assert (event["action"], event["reason"], host.record()["restarts"]) == ("restarted", REASON, 1)
    assert not host.request.exists()
    assert [*host.prefix.glob("lock*")] == []
    assert Path(event["dump"]).stat().st_mode & 0o777 == 0o600


def test_a_stopped_process_writes_its_stacks_too(host: Host) -> None:
    engine = host.start(DEADLOCK, "VLLM::EngineCore")
    engine.send_signal(signal.SIGSTOP)
    wait_until(lambda: watchdog.status_of(engine.pid)["State"].startswith("T"), "it is never stopped")
    assert host.act() is None
    assert "State:\tT (stopped)" in host.dump(), "as it was before"
    assert "step_of_a_worker" in host.dump()


def test_a_process_without_the_plugin_gets_no_signal(host: Host) -> None:
    other = host.start("import time; print('ready', flush=True); time.sleep(60)", "other")
    assert host.act() is None
    assert "has not registered" in host.dump()
    assert other.poll() is None


def test_py_spy_of_the_environment_is_used(host: Host) -> None:
    host.start(DEADLOCK, "VLLM::EngineCore")
    spy = host.prefix / "current/bin/py-spy"
    spy.write_text('#!/bin/sh\necho "spied: $*"\n')
    spy.chmod(0o755)
    assert host.act() is None
    assert f"spied: dump --nonblocking --pid {host.processes[0].pid}" in host.dump()
    assert "step_of_a_worker" not in host.dump().partition("Python stacks")[2]


def test_power_and_utilization_of_the_cards_are_written_down(host: Host) -> None:
    (host.folder / "nvidia-smi").write_text('#!/bin/sh\necho "P0  81W / 700W | 0%"\n')
    (host.folder / "nvidia-smi").chmod(0o755)
    assert host.act() is None
    assert "81W / 700W | 0%" in host.dump()


def test_a_program_that_cannot_be_killed_is_not_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.folder / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    (host.folder / "nvidia-smi").chmod(0o755)
    ended: list[subprocess.Popen[str]] = []

    def is_kept_by_the_driver(process: subprocess.Popen[str]) -> None:
        ended.append(process)

    monkeypatch.setattr(subprocess.Popen, "kill", is_kept_by_the_driver)
    monkeypatch.setattr(watchdog, "DUMP_S", 0.2)
    assert watchdog.said_by("nvidia-smi") == "(nvidia-smi: Command '('nvidia-smi',)' timed out after 0.2 seconds)\n"
    monkeypatch.undo()
    for process in ended:
        process.kill()
        process.communicate()
    assert len(ended) == 1


def test_flight_recorders_are_asked_and_kept(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = host.folder
    pipe, written = folder / "pipe-3.pipe", folder / "trace-3"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    recorder = threading.Timer(0.3, written.write_bytes, [b"trace"])
    recorder.start()
    variables = f"TORCH_NCCL_DEBUG_INFO_PIPE_FILE={folder}/pipe- TORCH_NCCL_DEBUG_INFO_TEMP_FILE={folder}/trace-"
    monkeypatch.setattr(watchdog, "read", lambda path: variables if path.endswith("/environ") else "")
    [line] = watchdog.flight_records(host.prefix / "logs/hang-x.txt", [os.getpid()])
    recorder.join()
    assert os.read(reading, 9) == b"1\n"
    os.close(reading)
    assert line.startswith("NCCL's flight record of rank 3 is in ")
    assert (host.prefix / "logs/hang-x-nccl-3").read_bytes() == b"trace"


def test_after_the_restarts_of_an_hour_it_is_left_down(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    for _ in range(3):
        host.request.write_text(f"{REASON}\n")
        assert host.act(restarts=2) is None
        now += 1000
    actions = [event["action"] for event in host.record()["events"]]
    assert actions == ["restarted", "restarted", "left down"]
    assert host.asked()[-2:] == [f"kill --signal=KILL {UNIT}", f"stop {UNIT}"]
    assert host.record()["events"][-1]["reason"] == f"hung again after 2 restarts within an hour: {REASON}"
    assert host.record()["restarts"] == 2
    old = host.prefix / "logs/hang-20010101T000000Z.txt"
    old.touch()
    host.request.write_text(f"{REASON}\n")
    now += 1000  # an hour after the first one
    assert host.act(restarts=2) is None
    assert host.record()["events"][-1]["action"] == "restarted"
    assert not old.exists(), "its event is forgotten"


def test_without_allowed_restarts_it_is_left_down_at_once(host: Host) -> None:
    assert host.act(restarts=0) is None
    [event] = host.record()["events"]
    assert (event["action"], event["reason"]) == ("left down", REASON)


def test_a_full_disk_keeps_no_engine_down(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def systemctl(*words: str) -> str:
        asked.append(words[0])
        return "ActiveState=active\nJob=\nControlGroup=/stub\n"

    monkeypatch.setattr(watchdog, "log", lambda _: None)
    monkeypatch.setattr(watchdog, "systemctl", systemctl)
    with full_disk():
        assert host.act() is None
    assert [word for word in asked if word != "show"] == ["kill", "reset-failed", "restart"]
    assert not host.request.exists()


def test_it_waits_while_a_run_has_the_host(host: Host) -> None:
    with (host.prefix / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert host.act() == "a run has this host"
    assert host.request.exists()
    assert host.asked() == []
    assert host.act() is None


def test_a_request_that_outlasts_what_spoke_against_it_is_looked_at_again_first(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, waits = iter([watchdog.BUSY, watchdog.BUSY, None]), []

    def try_to_act(*_: object, settle_s: float) -> str | None:
        waits.append(settle_s)
        return next(answers)

    monkeypatch.setattr(watchdog, "try_to_act", try_to_act)
    monkeypatch.setattr(watchdog, "WAIT_S", 0.0)
    monkeypatch.setattr(sys, "argv", ["watchdog.py", "--prefix", str(host.prefix), "--unit", UNIT, "--restarts", "3"])
    watchdog.main()
    assert waits == [0.0, watchdog.SETTLE_S, watchdog.SETTLE_S]


def test_an_engine_that_computes_again_is_left_alone(host: Host) -> None:
    host.request.unlink()
    assert host.act() == "the engine computes again"
    assert host.asked() == []


def test_a_process_that_goes_on_while_it_writes_is_restarted(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its help was needed for the stacks, and woke it."""

    def write_dump(*_: object) -> Path:
        host.request.unlink()
        return host.prefix / "logs/hang-x.txt"

    monkeypatch.setattr(watchdog, "write_dump", write_dump)
    assert host.act() is None
    assert host.asked()[-1] == f"restart --no-block {UNIT}"


def test_a_unit_that_somebody_started_meanwhile_is_left_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_dump(*_: object) -> Path:
        host.state(job="42")
        return host.prefix / "logs/hang-x.txt"

    monkeypatch.setattr(watchdog, "write_dump", write_dump)
    assert host.act() == "stub.service was stopped or started at the same time"
    assert host.asked() == []


@pytest.mark.parametrize(
    ("active", "job", "obstacle"),
    [
        ("inactive", "", "stub.service is inactive"),
        ("activating", "", "stub.service is activating"),
        ("active", "42", "systemd is about to stop or start stub.service"),
    ],
)
def test_a_unit_that_is_stopped_or_starting_is_left_alone(host: Host, active: str, job: str, obstacle: str) -> None:
    host.state(active, job)
    assert host.act() == obstacle
    assert host.asked() == []
    assert host.request.exists() == (active == "active"), "the request was of another start"


def test_a_debugger_is_not_disturbed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = host.start(DEADLOCK, "VLLM::EngineCore")
    monkeypatch.setattr(watchdog, "status_of", lambda _: {"TracerPid": "77"})
    assert host.act() == f"process {engine.pid} is traced by process 77"
    assert host.asked() == []


def test_a_request_is_read_as_one_short_line_and_never_through_a_link(host: Host) -> None:
    assert watchdog.reason_of(host.request) == REASON
    host.request.write_text("a\nb\x1b[31m" + "c" * 5000)
    assert watchdog.reason_of(host.request) == "ab[31m" + "c" * 192
    host.request.unlink()
    assert watchdog.reason_of(host.request) is None
    host.request.symlink_to("/etc/passwd")
    assert watchdog.reason_of(host.request) is None
