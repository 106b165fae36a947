"""Stops the service for the length of a block, and starts and proves it again, whatever ends the block.

Before it is stopped, PREFIX/run/drained.json says which process did it. Where that one is killed, `resume` starts the
service in its stead: the next thing that the controller does after an interruption.
"""

from __future__ import annotations

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
from verify.serving.service_control import ControlError

MARK = "run/drained.json"
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_S = 0.1


@dataclass
class Drain:
    """How it went; `outcome` is there once the block has ended."""

    outcome: CheckResult | None = None


@contextmanager
def drain_service(service: Service) -> Iterator[Drain]:
    """The service is stopped within the block. SIGINT, SIGTERM and SIGHUP end the block, not what comes after it.

    Raises ControlError, before anything was done, where another process has it stopped, and where it does not stop.
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
            service_control.stop(service)
            yield drain
        finally:
            for number in ENDINGS:
                signal.signal(number, signal.SIG_IGN)
            drain.outcome = _bring_back(service, began)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def resume(service: Service) -> CheckResult | None:
    """End whoever has the service stopped, and have it back; null where nobody had it stopped."""
    mark = service.prefix / MARK
    if not mark.exists():
        return None
    began = time.monotonic()
    pid = holder(mark)
    while pid is not None:
        # It starts and proves the service itself, and takes its mark away; until then it may be asked again.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        time.sleep(POLL_S)
        pid = holder(mark)
    return _bring_back(service, began)


def _bring_back(service: Service, began: float) -> CheckResult:
    remedy = "its log says why; to start it again: ./firstlight serve"
    try:
        service_control.start(service)
        (service.prefix / MARK).unlink(missing_ok=True)
        problem = service_control.prove(service)
    except ControlError as error:
        problem = str(error)
    away = time.monotonic() - began
    if problem is None:
        return CheckResult("ok", f"{service.name} was stopped, and answers right again after {away:.0f} s")
    return CheckResult("fail", f"{service.name} was stopped and did not come back: {problem}", remedy=remedy)


def holder(mark: Path) -> int | None:
    """The living process that has the service stopped."""
    try:
        noted = json.loads(mark.read_text())
        pid, ticks = int(noted["pid"]), noted["start_ticks"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if ticks is not None and start_ticks(pid) == ticks else None


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
