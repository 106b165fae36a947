"""A service that is stopped for the checks is started again, however they end."""

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.verify.localhost import program
from tests.verify.served import Answering, served
from verify.serving import service_control
from verify.serving.service import Service, start_ticks
from verify.serving.service_control import MARK, ControlError, drain_service, resume

ROOT = Path(__file__).resolve().parents[2]

READY = """
import json, sys
request = json.load(sys.stdin)
times = request.get("times", 0)
state = "waiting" if times < 2 else {state!r}
record = {{"text": {text!r}}} if state != "waiting" else None
print(json.dumps({{"state": state, "progress": "loading", "resume": {{"times": times + 1}}, "record": record}}))
"""
"""A substitute for ready.pyz: it is not ready twice, then it answers."""

HOLD = """
import sys, time
from pathlib import Path
from verify.serving.service_control import drain_service
from verify.serving.service import Service
service = Service(Path(sys.argv[1]), {"supervisor": "supervisor", "unit": "firstlight-vllm"}, 1)
with drain_service(service):
    print("stopped", flush=True)
    time.sleep(600)
"""


class Supervisor(socketserver.ThreadingUnixStreamServer):
    """A substitute for supervisord that records its calls."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Handler)
        self.calls: list[str] = []
        self.fault: str | None = None


class Handler(Answering):
    """Answers as supervisord's XML-RPC does."""

    server: Supervisor

    def do_POST(self) -> None:  # noqa: N802 - as http.server names it
        arguments, method = xmlrpc.client.loads(self.received().decode())
        assert method is not None
        self.server.calls.append(f"{method.removeprefix('supervisor.')} {arguments[0]!s}")
        fault = self.server.fault
        answer: xmlrpc.client.Fault | tuple[bool] = xmlrpc.client.Fault(60, fault) if fault else (True,)
        self.answer(xmlrpc.client.dumps(answer, methodresponse=True).encode())


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An installation whose service answers correctly at the third request."""
    for name in ("run", "verify", "bin", "current/bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "current/bin/python").symlink_to(sys.executable)
    (tmp_path / "bin/ready.pyz").write_text(READY.format(state="ready", text=None))
    return tmp_path


@pytest.fixture
def service(prefix: Path) -> Service:
    return Service(prefix, {"supervisor": "supervisor", "unit": "firstlight-vllm"}, 1)


@pytest.fixture
def supervisor(prefix: Path) -> Iterator[Supervisor]:
    with served(Supervisor(prefix / "run" / "supervisor.sock")) as server:
        yield server


STOP, START = "stopProcess firstlight-vllm", "startProcess firstlight-vllm"


def test_the_service_is_stopped_within_the_block_and_proven_after_it(service: Service, supervisor: Supervisor) -> None:
    with drain_service(service) as drain:
        assert supervisor.calls == [STOP]
        assert (service.prefix / MARK).exists()
    assert supervisor.calls == [STOP, START]
    assert drain.outcome is not None
    assert drain.outcome.status == "ok"
    assert not (service.prefix / MARK).exists()
    assert resume(service) is None


def test_a_service_that_does_not_start_again_is_a_failure_with_the_text_of_its_proof(
    service: Service, supervisor: Supervisor
) -> None:
    program = service.prefix / "bin/ready.pyz"
    program.write_text(READY.format(state="failed", text="token 3 of 32 is 17, transformers says 4"))
    with drain_service(service) as drain:
        pass
    assert drain.outcome is not None
    assert drain.outcome.status == "fail"
    assert "did not come back: token 3 of 32 is 17" in drain.outcome.reason
    program.write_text("raise SystemExit('no such file: reference.json')")
    with drain_service(service) as drain:
        pass
    assert drain.outcome is not None
    assert "ready.pyz ended with 1: no such file: reference.json" in drain.outcome.reason
    assert supervisor.calls == [STOP, START] * 2


def test_checks_that_raise_leave_the_service_running(service: Service, supervisor: Supervisor) -> None:
    with pytest.raises(RuntimeError, match="a defect"), drain_service(service):
        raise RuntimeError("a defect")
    assert supervisor.calls == [STOP, START]


def holder(prefix: Path) -> subprocess.Popen[str]:
    """A process that has the service stopped."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(prefix)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "stopped\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_checks_and_not_the_restart_of_the_service(
    service: Service, supervisor: Supervisor, number: signal.Signals
) -> None:
    with holder(service.prefix) as process:
        process.send_signal(number)
        assert process.wait(30) != 0
    assert supervisor.calls == [STOP, START]
    assert not (service.prefix / MARK).exists()


def test_a_service_left_stopped_by_a_killed_process_is_started_by_the_next_call(
    service: Service, supervisor: Supervisor
) -> None:
    with holder(service.prefix) as process:
        process.kill()
    assert supervisor.calls == [STOP]
    outcome = resume(service)
    assert outcome is not None
    assert outcome.status == "ok"
    assert supervisor.calls == [STOP, START]
    assert resume(service) is None


def test_a_running_process_is_ended_on_resume_and_a_second_one_is_refused(
    service: Service, supervisor: Supervisor
) -> None:
    with holder(service.prefix) as process:
        with (
            pytest.raises(ControlError, match=f"process {process.pid} has stopped firstlight-vllm"),
            drain_service(service),
        ):
            pass
        assert supervisor.calls == [STOP]
        # A process that is not a child just disappears; this one is a child of the test and must be reaped.
        threading.Thread(target=process.wait).start()
        outcome = resume(service)
    assert outcome is not None
    assert outcome.status == "ok"
    assert supervisor.calls[:2] == [STOP, START]


def test_a_pid_that_another_process_has_now_holds_nothing(service: Service, supervisor: Supervisor) -> None:
    (service.prefix / MARK).write_text(json.dumps({"pid": os.getpid(), "start_ticks": "1"}))
    outcome = resume(service)
    assert outcome is not None
    assert supervisor.calls == [START]


def test_what_the_service_left_in_its_folder_is_neither_overwritten_nor_believed(
    service: Service, supervisor: Supervisor, tmp_path: Path
) -> None:
    left, other = service.prefix / "run/drained.json", tmp_path / "a file of root"
    other.write_text("kept")
    left.symlink_to(other)
    with drain_service(service):
        assert other.read_text() == "kept"
    left.unlink()
    with subprocess.Popen(["sleep", "600"]) as process:
        left.write_text(json.dumps({"pid": process.pid, "start_ticks": start_ticks(process.pid)}))
        assert resume(service) is None
        assert process.poll() is None
        process.kill()
    assert supervisor.calls == [STOP, START]


def test_a_supervisor_that_refuses_or_is_missing_is_reported_with_the_reason(
    service: Service, supervisor: Supervisor
) -> None:
    supervisor.fault = "BAD_NAME: firstlight-vllm"
    with pytest.raises(ControlError, match="did not stop firstlight-vllm: BAD_NAME"):
        service_control.control(service, "stop")
    supervisor.fault = "ALREADY_STARTED: firstlight-vllm"
    service_control.control(service, "start")
    (service.prefix / "run" / "supervisor.sock").unlink()
    with pytest.raises(ControlError, match=r"does not answer on .*supervisor\.sock"):
        service_control.control(service, "stop")


@pytest.mark.parametrize(("supervisor_name", "scope"), [("systemd", ""), ("systemd-user", "--user ")])
def test_a_unit_is_stopped_and_started_by_its_own_manager(
    prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supervisor_name: str, scope: str
) -> None:
    folder = tmp_path / "path"
    folder.mkdir()
    starts = 'case "$*" in *start*) echo "Job failed." >&2; exit 1;; esac'
    program(folder / "systemctl", f'echo "$*" >> "$0.calls"\n{starts}')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    unit = Service(prefix, {"supervisor": supervisor_name, "unit": "firstlight-vllm.service"}, 1)
    service_control.control(unit, "stop")
    with pytest.raises(ControlError, match=r"start firstlight-vllm\.service ended with 1: Job failed\."):
        service_control.control(unit, "start")
    calls = (folder / "systemctl.calls").read_text().splitlines()
    # Otherwise systemd refuses the sixth start within its interval.
    assert calls == [f"{scope}{word} firstlight-vllm.service" for word in ("stop", "reset-failed", "start")]


@pytest.mark.slow
def test_the_load_of_a_service_is_measured(prefix: Path) -> None:
    def cores(program: str) -> float:
        process = subprocess.Popen([sys.executable, "-c", program])
        try:
            time.sleep(0.5)
            return Service(prefix, {}, process.pid).cores(1.0)
        finally:
            process.kill()
            process.wait()

    assert cores("while True: pass") > cores("import time; time.sleep(60)")


def test_the_time_of_a_compiler_counts_on_when_it_has_ended(prefix: Path) -> None:
    """Else an engine that waits for one compiler after the other would seem to compute nothing."""
    compiler = "import time\nwhile time.process_time() < 0.3: pass"
    engine = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {compiler!r}]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", engine], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert Service(prefix, {}, process.pid).cpu_seconds() >= 0.2  # ticks are 10 ms
        process.kill()
