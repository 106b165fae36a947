"""serving.relays: who else on the host forwards requests from outside to the endpoint, or hands out files of the installation."""

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from verify.files import printed, small_text
from verify.records import CheckContext, CheckResult, Figure, Observation, combine
from verify.serving import service_control
from verify.serving.processes import ListeningSocket, Process, all_listeners
from verify.serving.service import EVERY_ADDRESS, Service
from verify.serving.service_control import ControlError, Units
from verify.tables import table

PROPERTIES = ("Id", "Names", "ActiveState", "Triggers", "Listen", "ExecStart")
RULES_S = 5.0
REMEDY = "stop it, or let it ask for the key and bind it to the addresses of clients; for clients of other hosts there are firstlight_bind and the gateway"


@dataclass(frozen=True)
class RelayFacts:
    """Observations on the host."""

    host: str = "127.0.0.1"
    port: int = 8000
    listeners: tuple[tuple[int, ListeningSocket], ...] = ()
    """Port and socket of each listener that is not the service's or this product's."""
    scripts: Mapping[int, str] = field(default_factory=dict)
    """Texts of the scripts that a process runs, by its PID."""
    configurations: Mapping[str, str] = field(default_factory=dict)
    """Configurations of programs that forward requests."""
    loaded: Units = field(default_factory=dict)
    rules: tuple[str, ...] = ()
    """Lines of the kernel's rules for packets."""
    prefix: str = "/opt/firstlight"
    folders: Mapping[int, str] = field(default_factory=dict)
    """The working folder of each process that is not this product's, by its PID."""


RELAY = Process(66, 1, argv=("socat", "TCP-LISTEN:9000,fork", "TCP:127.0.0.1:8000"))


def run(context: CheckContext) -> CheckResult:
    if context.service is None or context.faults:
        return evaluate(RelayFacts(listeners=((9000, ListeningSocket("0.0.0.0", (RELAY,))),)))  # noqa: S104 - a stand-in
    return evaluate(collect(context.service))


def collect(service: Service) -> RelayFacts:
    """Read all listeners of the host, what their processes run, and the kernel's rules."""
    rows, own = table("relays"), set(small_text(service.prefix / "etc" / "units").split())
    names, ours = {Path(path).name for path in own}, set(service.pids()) if service.main_pid else set()
    listeners = []
    for port, socket in all_listeners():
        holders = tuple(one for one in socket.holders if one.pid not in ours and not names & _units(one.pid))
        if holders and not ipaddress.ip_address(socket.address).is_loopback:
            listeners.append((port, replace(socket, holders=holders)))
    processes = {one.pid: one for _, socket in listeners for one in socket.holders}
    loaded: dict[str, dict[str, str]] = {}
    with suppress(ControlError):
        if service.readiness["supervisor"] == "systemd":
            loaded = service_control.shown_units(service, PROPERTIES)
    paths = (path for pattern in rows["files"] for path in Path("/").glob(pattern[1:]))
    return RelayFacts(
        str(service.readiness["host"]),
        int(service.readiness["port"]),
        tuple(listeners),
        {
            pid: "\n".join(small_text(Path(f"/proc/{pid}/cwd", word)) for word in one.argv[1:])
            for pid, one in processes.items()
        },
        {str(path): text for path in paths if (text := small_text(path))},
        {name: unit for name, unit in loaded.items() if name not in names},
        tuple(line for each in rows["rules"] for line in _answer(**each)),
        str(service.prefix),
        {
            pid: os.path.realpath(f"/proc/{pid}/cwd")
            for pid in processes
            if not any(name.startswith("firstlight-") for name in _units(pid))
        },
    )


def _units(pid: int) -> set[str]:
    """Return the names of the control groups that a process is in, among them its unit's."""
    return {part for line in small_text(f"/proc/{pid}/cgroup").splitlines() for part in line.split("/")}


def _answer(command: list[str], loaded: str = "") -> list[str]:
    if loaded and command[-1] not in small_text(loaded).split():
        return []
    return (printed(command, limit_s=RULES_S) or "").splitlines()


def evaluate(facts: RelayFacts) -> CheckResult:
    """Warn of each relay: an administrator may have intended it."""
    found = [*_inside(facts)]
    healthy = f"the endpoint itself listens on every address ({facts.host})"
    if facts.host not in EVERY_ADDRESS:
        redirects = _pattern(facts, "redirects")
        rules = [line.strip() for line in facts.rules if redirects.search(line)]
        found += [*_processes(facts), *_sockets(facts)]
        found += [f"a rule of the kernel forwards to port {facts.port}: `{line}`" for line in rules]
        healthy = f"none of the {len(facts.listeners)} other listeners of the host forwards to port {facts.port} or works in {facts.prefix}"
    figures = (Figure("listeners for other hosts", len(facts.listeners), "count"),)
    evidence = {"listeners": [f"{socket.address} port {port}" for port, socket in facts.listeners], "relays": found}
    return combine([Observation("warn", text, REMEDY) for text in found], healthy, figures, evidence)


def _pattern(facts: RelayFacts, name: str) -> re.Pattern[str]:
    return re.compile(table("relays")[name].replace("ADDRESS", re.escape(facts.host)).replace("PORT", str(facts.port)))


def _named(facts: RelayFacts, text: str) -> bool:
    return _pattern(facts, "named").search(text) is not None


def _processes(facts: RelayFacts) -> Iterable[str]:
    for port, socket in facts.listeners:
        for one in socket.holders:
            program = Path(one.executable).name.rstrip("0123456789.")
            own = {path: text for path, text in facts.configurations.items() if program and program in path}
            files = [path for path, text in own.items() if _named(facts, text)]
            if _named(facts, " ".join(one.argv)) or _named(facts, facts.scripts.get(one.pid, "")) or files:
                where = f", by {files[0]}" if files else ""
                yield f"{one.title} listens on {socket.address} port {port} and forwards to port {facts.port}{where}"


def _inside(facts: RelayFacts) -> Iterable[str]:
    """Yield programs that work in the installation's folder, or are told to by their arguments."""
    for port, socket in facts.listeners:
        for one in socket.holders:
            places = (facts.folders[one.pid], *one.argv[1:]) if one.pid in facts.folders else ()
            if any(f"{place.rstrip('/')}/".startswith(f"{facts.prefix}/") for place in places):
                yield f"{one.title} listens on {socket.address} port {port} and may hand out files of {facts.prefix}"


def _sockets(facts: RelayFacts) -> Iterable[str]:
    """Yield sockets of systemd that start a program which names the endpoint."""
    for name, unit in facts.loaded.items():
        if name.endswith(".socket") and unit.get("ActiveState") == "active":
            for started in unit.get("Triggers", "").split():
                if _named(facts, facts.loaded.get(started, {}).get("ExecStart", "")):
                    yield f"{name} listens on {unit.get('Listen', 'a socket')} and starts {started}, which forwards to port {facts.port}"
