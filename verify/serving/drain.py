"""Stop of the service for the length of a block; whatever ends the block, the service is started and proven again.

Before the stop, PREFIX/run/drained.json records the process. If it is killed, `resume` starts the service instead; the
controller calls it after an interruption.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from verify.records import CheckResult
from verify.serving import service_control
from verify.serving.service import Service, start_ticks
from verify.serving.service_control import ControlError, ServiceState

MARK = "run/drained.json"
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
    before = {number: signal.signal(number, _interrupt) for number in ENDINGS}
    drain = Drain()
    try:
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(json.dumps({"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}))
        began = time.monotonic()
        try:
            service_control.control(service, "stop")
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
        service_control.control(service, "start")
        (service.prefix / MARK).unlink(missing_ok=True)
        problem = service_control.prove(service)
    except ControlError as error:
        problem = str(error)
    away = time.monotonic() - began
    if problem is None:
        return CheckResult("ok", f"{service.name} was stopped, and answers correctly again after {away:.0f} s")
    return CheckResult("fail", f"{service.name} was stopped and did not come back: {problem}", remedy=remedy)


def holder(mark: Path) -> int | None:
    """Return the PID of the living process that has the service stopped."""
    try:
        noted = json.loads(mark.read_text())
        pid, ticks = int(noted["pid"]), noted["start_ticks"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if ticks is not None and start_ticks(pid) == ticks else None


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def stopped_by(service: Service, state: ServiceState) -> str | None:
    """Return who stopped it on purpose, according to this product's records; None if none of them is about this stop."""
    if holder(service.prefix / MARK) is not None:
        return "it is stopped for the checks (--drain)"
    try:
        record = json.loads((service.prefix / STOPPED).read_text())
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        is_of_this_end = record["boot_id"] == boot_id and state.ended is not None and state.ended <= record["monotonic"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return f"it was stopped by ./firstlight stop at {record['at']}" if is_of_this_end and not state.failed else None
