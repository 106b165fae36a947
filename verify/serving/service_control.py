"""Stop, start, proof and state of a service through its supervisor, and its stop for the length of a block.

Whatever ends the block, the service is started and proven again. Before the stop, PREFIX/verify/drained.json records the process. If it is
killed, `resume` starts the service instead; the controller calls it after an interruption.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
import xmlrpc.client
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from verify.files import read_json
from verify.records import CheckResult
from verify.serving.service import Service, start_ticks
from verify.serving.service_plan import properties, shown_properties

Units = Mapping[str, Mapping[str, str]]
"""Properties of the loaded units, by name."""
COMMAND_S = 180.0
"""For one stop or start: the unit gives a server 90 s to end."""
SHOW_S = 10.0
SLICE_S, PROVE_S = 10.0, 1800.0
"""Duration of one call of the proof, and the limit until the service answers correctly."""
ANSWER_S = 420.0
"""For the answers, beyond the slice: the first one of a large model may compile kernels."""
MICROSECOND = 1e-6


class ControlError(Exception):
    """A supervisor did not do what was requested; the message is its own."""


def control(service: Service, action: Literal["start", "stop"]) -> None:
    """Start or stop the service; a stopped one still starts at boot. Raises ControlError."""
    if service.readiness["supervisor"] != "supervisor":
        if action == "start":  # otherwise refused after five starts within half an hour, whoever asked for them
            _systemctl(service, "reset-failed", service.name, may_fail=True)
        _systemctl(service, action, service.name, limit_s=COMMAND_S)
        return
    try:
        supervisord(service, f"{action}Process", service.name, True)
    except xmlrpc.client.Fault as fault:
        if fault.faultString.partition(":")[0] not in ("ALREADY_STARTED", "NOT_RUNNING"):
            raise ControlError(f"supervisord did not {action} {service.name}: {fault.faultString}") from None


def prove(service: Service) -> str | None:
    """Wait until the service answers correctly; return the problem if it does not. Raises ControlError."""
    request = dict(service.readiness)
    began = time.monotonic()
    python, program = service.prefix / "current/bin/python", service.prefix / "bin/ready.pyz"
    while True:
        stdin = json.dumps({**request, "slice_s": SLICE_S})
        done = _run([str(python), "-I", "-S", str(program)], stdin=stdin, limit_s=SLICE_S + ANSWER_S)
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise ControlError(f"{program} ended with {done.returncode}: {_last(done)}") from None
        if answer["state"] != "waiting":
            text: str | None = answer["record"]["text"]
            return None if answer["state"] == "ready" else text or "it did not become ready"
        if time.monotonic() - began > PROVE_S:
            return f"it has not answered within {PROVE_S:g} s after its start: {answer['progress']}"
        request |= answer["resume"]


def shown(service: Service, names: Iterable[str]) -> dict[str, str]:
    """Return properties of the service's unit. Raises ControlError."""
    return shown_properties(_systemctl(service, "show", service.name, f"--property={','.join(names)}"))


def shown_units(service: Service, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return properties of all loaded units, and of the target of the next boot, by name. Raises ControlError."""
    # Without --all the pattern stands for active units alone.
    asked = ("default.target", "*", f"--property={','.join(names)}")
    return units(_systemctl(service, "show", "--all", *asked, may_fail=True))


def units(answer: str) -> dict[str, dict[str, str]]:
    """Parse the output of `systemctl show` for several units; one with several names is there by each."""
    found: dict[str, dict[str, str]] = {}
    for unit in map(shown_properties, answer.split("\n\n")):
        found |= dict.fromkeys(unit.get("Names", unit.get("Id", "")).split(), unit)
    return found


def default_target(service: Service) -> str:
    """Return the name of the target of the next boot. Raises ControlError."""
    return _systemctl(service, "get-default", may_fail=True).strip() or "default.target"


def manager_environment(service: Service) -> dict[str, str]:
    """Return the variables that the service's manager gives to what it starts. Raises ControlError."""
    answer = _systemctl(service, "show-environment", may_fail=True)
    return dict(line.partition("=")[::2] for line in answer.splitlines() if "=" in line)


def _systemctl(service: Service, *words: str, limit_s: float = SHOW_S, may_fail: bool = False) -> str:
    """Return what systemctl prints for the manager of the service. Raises ControlError, where it fails unless it may."""
    user = ["--user"] if service.readiness["supervisor"] == "systemd-user" else []
    done = _run(["systemctl", *user, *words], limit_s=limit_s)
    if done.returncode and not may_fail:
        raise ControlError(f"systemctl {' '.join(words[:2])} ended with {done.returncode}: {_last(done)}")
    return done.stdout


def supervisord(service: Service, method: str, *arguments: Any, limit_s: float = COMMAND_S) -> Any:
    """Call supervisord through its socket; its own client costs a tenth of a second per call.

    Raises ControlError where it does not answer, and xmlrpc.client.Fault where it refuses.
    """
    path = service.prefix / "run" / "supervisor.sock"
    try:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(limit_s)
        connection.sock.connect(str(path))
        body = xmlrpc.client.dumps(arguments, f"supervisor.{method}")
        connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
        return xmlrpc.client.loads(connection.getresponse().read().decode())[0][0]
    except (OSError, http.client.HTTPException) as problem:
        raise ControlError(f"supervisord does not answer on {path}: {problem}") from None


def _run(command: list[str], *, limit_s: float, stdin: str = "") -> subprocess.CompletedProcess[str]:
    # The user's systemd needs its runtime folder, which a plain SSH command does not set.
    environment = {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}", **os.environ}
    try:
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise ControlError(f"{command[0]}: {problem}") from None


def _last(done: subprocess.CompletedProcess[str]) -> str:
    message = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return message[-1] if message else "no message"


@dataclass(frozen=True)
class ServiceState:
    """`text` is the supervisor's own. `main_pid` is 0 without a process."""

    text: str
    runs: bool
    main_pid: int = 0
    ended: float | None = None
    """Seconds since boot when it ended; None while it runs, or if unknown."""
    failed: bool = False
    shown: Mapping[str, str] = field(default_factory=dict)
    """Properties of `systemctl show`; empty under another supervisor."""


def observe(service: Service) -> ServiceState:
    """Ask the supervisor. A dead supervisord is a state. Raises ControlError where systemd does not answer."""
    if service.readiness["supervisor"] == "supervisor":
        try:
            program = supervisord(service, "getProcessInfo", service.name)
        except (ControlError, xmlrpc.client.Fault) as problem:
            # The last entry of its log is about its end.
            log = service.prefix / "logs" / "supervisord.log"
            ended_at = time.monotonic() - (time.time() - log.stat().st_mtime) if log.exists() else None
            return ServiceState(str(problem), runs=False, ended=ended_at)
        runs = program["statename"] == "RUNNING"
        return ServiceState(program["statename"], runs, int(program["pid"]), failed=not runs)
    names = ("LoadState", "ActiveState", "SubState", "MainPID", "InactiveEnterTimestampMonotonic", "UnitFileState")
    files = ("FragmentPath", "SourcePath", "DropInPaths", "NeedDaemonReload", "NRestarts")
    found = shown(service, (*names, *files, *properties()))
    active, ended = found.get("ActiveState", "unknown"), int(found.get("InactiveEnterTimestampMonotonic") or 0)
    return ServiceState(
        text=f"{active} ({found.get('SubState', '')})",
        runs=active == "active" and found.get("MainPID", "0") != "0",
        main_pid=int(found.get("MainPID") or 0),
        ended=ended * MICROSECOND if ended and active == "inactive" else None,
        failed=active not in ("active", "inactive"),
        shown=found,
    )


MARK = "verify/drained.json"
STOPPED = "etc/stopped.json"
"""Written by `./firstlight stop` when the service has ended: `at`, `boot_id`, `monotonic`."""
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_S = 0.1


@dataclass
class Drain:
    """Outcome of a drain; `outcome` is set when the block has ended."""

    outcome: CheckResult | None = None


@contextmanager
def drain_service(service: Service) -> Iterator[Drain]:
    """Stop the service within the block. SIGINT, SIGTERM and SIGHUP end the block, but not the restart.

    Raises ControlError where another process has stopped it already, or it does not stop.
    """
    mark = service.prefix / MARK
    if (pid := holder(mark)) is not None:
        raise ControlError(f"process {pid} has stopped {service.name} to check this host")
    before = {number: signal.signal(number, signal.default_int_handler) for number in ENDINGS}
    drain = Drain()
    try:
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(json.dumps({"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}))
        began = time.monotonic()
        try:
            control(service, "stop")
            yield drain
        finally:
            for number in ENDINGS:
                signal.signal(number, signal.SIG_IGN)
            drain.outcome = _bring_back(service, began)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def resume(service: Service) -> CheckResult | None:
    """End the process that has the service stopped, and restart the service; return None if there is none."""
    mark = service.prefix / MARK
    if not mark.exists():
        return None
    began = time.monotonic()
    pid = holder(mark)
    while pid is not None:
        # This process starts and proves the service itself, then removes its record; it may be asked again until then.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        time.sleep(POLL_S)
        pid = holder(mark)
    return _bring_back(service, began)


def _bring_back(service: Service, began: float) -> CheckResult:
    remedy = "see its log; to start it again: ./firstlight serve"
    try:
        control(service, "start")
        (service.prefix / MARK).unlink(missing_ok=True)
        problem = prove(service)
    except ControlError as error:
        problem = str(error)
    away = time.monotonic() - began
    if problem is None:
        return CheckResult("ok", f"{service.name} was stopped, and answers correctly again after {away:.0f} s")
    return CheckResult("fail", f"{service.name} was stopped and did not come back: {problem}", remedy=remedy)


def holder(mark: Path) -> int | None:
    """Return the PID of the living process that has the service stopped."""
    noted = read_json(mark)
    pid, ticks = noted.get("pid"), noted.get("start_ticks")
    return pid if isinstance(pid, int) and ticks is not None and start_ticks(pid) == ticks else None


def stopped_by(service: Service, state: ServiceState) -> str | None:
    """Return who stopped it on purpose, according to this product's records; None if none of them is about this stop."""
    if holder(service.prefix / MARK) is not None:
        return "it is stopped for the checks (--drain)"
    record = read_json(service.prefix / STOPPED)
    is_of_this_boot = record.get("boot_id") == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if not is_of_this_boot or state.failed or state.ended is None or state.ended > record.get("monotonic", 0.0):
        return None
    return f"it was stopped by ./firstlight stop at {record.get('at')}"
