"""State of the service according to its supervisor, and the record of an intended stop."""

import json
import time
import xmlrpc.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from verify.serving import drain, service_control
from verify.serving.service import Service
from verify.serving.unit_differences import properties

STOPPED = "etc/stopped.json"
"""Written by `./firstlight stop` when the service has ended: `at`, `boot_id`, `monotonic`."""
MICROSECOND = 1e-6


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
        return _under_supervisord(service)
    names = ("LoadState", "ActiveState", "SubState", "MainPID", "InactiveEnterTimestampMonotonic", "UnitFileState")
    files = ("FragmentPath", "DropInPaths", "NeedDaemonReload", "NRestarts")
    shown = service_control.shown(service, (*names, *files, *properties()))
    active, ended = shown.get("ActiveState", "unknown"), int(shown.get("InactiveEnterTimestampMonotonic") or 0)
    return ServiceState(
        text=f"{active} ({shown.get('SubState', '')})",
        runs=active == "active" and shown.get("MainPID", "0") != "0",
        main_pid=int(shown.get("MainPID") or 0),
        ended=ended * MICROSECOND if ended and active == "inactive" else None,
        failed=active not in ("active", "inactive"),
        shown=shown,
    )


def _under_supervisord(service: Service) -> ServiceState:
    log = service.prefix / "logs" / "supervisord.log"
    try:
        program = service_control.program(service)
    except (service_control.ControlError, xmlrpc.client.Fault) as problem:
        # The last entry of its log is about its end.
        ended = time.monotonic() - (time.time() - log.stat().st_mtime) if log.exists() else None
        return ServiceState(str(problem), runs=False, ended=ended)
    runs = program["statename"] == "RUNNING"
    return ServiceState(program["statename"], runs, int(program["pid"]), failed=not runs)


def stopped_by(service: Service, state: ServiceState) -> str | None:
    """Return who stopped it on purpose, according to this product's records; None if none of them is about this stop."""
    if drain.holder(service.prefix / drain.MARK) is not None:
        return "it is stopped for the checks (--drain)"
    try:
        record = json.loads((service.prefix / STOPPED).read_text())
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        is_of_this_end = record["boot_id"] == boot_id and state.ended is not None and state.ended <= record["monotonic"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return f"it was stopped by ./firstlight stop at {record['at']}" if is_of_this_end and not state.failed else None
