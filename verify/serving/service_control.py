"""Stops and starts a service through whoever supervises it, and has it proven ready."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping
from typing import Any

from verify.serving.service import Service

COMMAND_S = 180.0
"""For one stop or start: the unit itself gives a server 90 s to end."""
SHOW_S = 10.0
SLICE_S, PROVE_S = 10.0, 1800.0
"""How long one call of the proof waits, and how long a service may take until it answers right."""
ANSWER_S = 420.0
"""For the answers themselves, beyond the slice: the first one of a large model may compile kernels."""


class ControlError(Exception):
    """A supervisor that did not do what it was told; the text is its own."""


def stop(service: Service) -> None:
    """End it; it starts again at boot as before. Raises ControlError."""
    _command(service, "stop")


def start(service: Service) -> None:
    """Start it; harmless when it runs. Raises ControlError."""
    _command(service, "start")


def prove(service: Service) -> str | None:
    """Wait until it answers right; what is wrong where it does not. Raises ControlError where that cannot be told."""
    request = dict(service.readiness)
    began = time.monotonic()
    while True:
        answer = _ask(service, {**request, "slice_s": SLICE_S})
        if answer["state"] != "waiting":
            text: str | None = answer["record"]["text"]
            return None if answer["state"] == "ready" else text or "it did not become ready"
        if time.monotonic() - began > PROVE_S:
            return f"it has not answered {PROVE_S:g} s after it was started: {answer['progress']}"
        request |= answer["resume"]


def _ask(service: Service, request: dict[str, Any]) -> dict[str, Any]:
    python, program = service.prefix / "current/bin/python", service.prefix / "bin/ready.pyz"
    done = _run([str(python), "-I", "-S", str(program)], stdin=json.dumps(request), limit_s=SLICE_S + ANSWER_S)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise ControlError(f"{program} ended with {done.returncode}: {_last(done)}") from None
    return answer


def shown(service: Service, names: Iterable[str]) -> dict[str, str]:
    """What `systemctl show` says of the unit, by property; values of a property that it repeats are joined by a blank.

    Raises ControlError where systemd does not answer.
    """
    done = _run([*_systemctl(service), "show", service.name, f"--property={','.join(names)}"], limit_s=SHOW_S)
    if done.returncode:
        raise ControlError(f"systemctl show {service.name} ended with {done.returncode}: {_last(done)}")
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        found[name] = f"{found[name]} {value}" if name in found else value
    return found


def program(service: Service) -> Mapping[str, Any]:
    """What supervisord says of the program (`getProcessInfo`). Raises ControlError where it does not answer."""
    information: Mapping[str, Any] = _supervisord(service, "getProcessInfo", service.name)
    return information


def _systemctl(service: Service) -> list[str]:
    return ["systemctl", *(["--user"] if service.readiness["supervisor"] == "systemd-user" else [])]


def _command(service: Service, action: str) -> None:
    if service.readiness["supervisor"] != "supervisor":
        done = _run([*_systemctl(service), action, service.name], limit_s=COMMAND_S)
        if done.returncode:
            raise ControlError(f"systemctl {action} {service.name} ended with {done.returncode}: {_last(done)}")
        return
    try:
        _supervisord(service, f"{action}Process", service.name, True)
    except xmlrpc.client.Fault as fault:
        if fault.faultString.partition(":")[0] not in ("ALREADY_STARTED", "NOT_RUNNING"):
            raise ControlError(f"supervisord did not {action} {service.name}: {fault.faultString}") from None


def _supervisord(service: Service, method: str, *arguments: Any) -> Any:
    """Over supervisord's socket; its own client takes a tenth of a second of Python each time.

    Raises ControlError where it does not answer, xmlrpc.client.Fault where it refuses.
    """
    path = service.prefix / "run" / "supervisor.sock"
    try:
        connection = http.client.HTTPConnection("localhost", timeout=COMMAND_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(COMMAND_S)
        connection.sock.connect(str(path))
        body = xmlrpc.client.dumps(arguments, f"supervisor.{method}")
        connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
        return xmlrpc.client.loads(connection.getresponse().read().decode())[0][0]
    except (OSError, http.client.HTTPException) as problem:
        raise ControlError(f"supervisord does not answer on {path}: {problem}") from None


def _run(command: list[str], *, limit_s: float, stdin: str = "") -> subprocess.CompletedProcess[str]:
    # A user's own manager is found by its runtime folder, which a plain SSH command lacks.
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
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return said[-1] if said else "no word"
