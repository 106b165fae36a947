"""The log of the service: the lines of one start, what they say of a failure, and when its phases ended."""

from __future__ import annotations

import re
import time
from pathlib import Path

from verify.tables import table

from .service import ReadinessRequest, ServiceState, run, scope

LOG_PREFIX = re.compile(r"^(?:\([^)]* pid=\d+\) ?)?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?")
"""Process, level, time and place, which vLLM puts before each line, including those of a call trace."""
DECISIVE_LINE = re.compile(
    r"^[\w.]*(?:Error|Exception|Interrupt)(?:: .*)?$|^\S+(?: serve)?: error: |^preflight refuses: |^group: (?:refuses|ends) |\bKilled\b|[Oo]ut of memory|No space left"
)
"""The second one is how argparse refuses an argument."""
CODE_LINE = re.compile(r"^\s+\S")
MARK_LINE = re.compile(r"^[\s^~]+$")
EVIDENCE_LINES = 12
LOG_TIME = re.compile(r"\b(\d\d-\d\d \d\d:\d\d:\d\d) \[")
RESOLUTION_S = 1.0
"""Seconds: the log has whole seconds, so a phase may seem to end this much before the process started."""


def service_log(request: ReadinessRequest, state: ServiceState) -> list[str]:
    """Return the lines of this start of the service, oldest first."""
    if request.supervisor == "supervisor":
        return lines_of_start(tail(Path(request.prefix) / "logs/vllm.log"), state.main_pid)
    command = ["journalctl", *scope(request), "--no-pager", "--output=cat", "--lines=3000"]
    match = f"_SYSTEMD_INVOCATION_ID={state.start_id}" if state.start_id else f"--unit={request.unit}"
    return run([*command, match]).splitlines()


def stream_errors(request: ReadinessRequest, since_s: float, until_s: float) -> int:
    """Return how many streams the server ended with an event `error` in a time: no metric of it counts them."""
    if request.supervisor == "supervisor":
        lines = tail(Path(request.prefix) / "logs/vllm.log")
        times = ((line, LOG_TIME.search(line)) for line in lines)
        lines = [line for line, at in times if at and since_s <= moment(at[1], until_s) < until_s]
    else:
        unit = "--user-unit" if request.supervisor == "systemd-user" else "--unit"
        during = [f"--since=@{since_s:.6f}", f"--until=@{until_s:.6f}"]
        lines = run(["journalctl", "--quiet", "--no-pager", "--output=cat", *during, unit, request.unit]).splitlines()
    logged = table("serving")["stream_error"]["logged"]
    return sum(re.search(logged, line) is not None for line in lines)


def lines_of_start(lines: list[str], pid: int) -> list[str]:
    """Return the lines from the preflight with that PID to the next one; without it, all after the last preflight."""
    starts = [number for number, line in enumerate(lines) if line.startswith("preflight: start of ")]
    for place, number in enumerate(starts):
        if lines[number].endswith(f" pid {pid}"):
            following = starts[place + 1] if place + 1 < len(starts) else len(lines)
            return lines[number:following]
    return lines[starts[-1] :] if starts else lines


def tail(path: Path, size: int = 2 << 20) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - size, 0))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def moment(written: str, near: float) -> float:
    """Return a time of the log in seconds since 1970: it names no year, so that of another time counts."""
    return time.mktime(time.strptime(f"{time.localtime(near).tm_year}-{written}", "%Y-%m-%d %H:%M:%S"))


def causes(lines: list[str]) -> list[str]:
    """Return the lines that explain a failed start, the first cause first, each once, without prefixes and call traces.

    An exception without a message is reported with the line of code that raised it.
    """
    chosen: list[str] = []
    code = ""
    for raw in lines:
        line = LOG_PREFIX.sub("", raw.rstrip())
        if CODE_LINE.match(line) and not MARK_LINE.match(line):
            code = line.strip()
        elif DECISIVE_LINE.search(line):
            chosen.append(line if ":" in line or not code else f"{line} at `{code}`")
    return [line[:400] for line in dict.fromkeys(chosen)][:EVIDENCE_LINES]


def last_lines(lines: list[str]) -> list[str]:
    return [LOG_PREFIX.sub("", line.rstrip())[:400] for line in lines if line.strip()][-EVIDENCE_LINES:]


def phases(log: list[str], began: float) -> dict[str, float]:
    """Return seconds from the start of the process (since 1970) to the end of each phase in the log, in order.

    Lines of earlier starts are ignored.
    """
    rows = table("start_phases")
    found: dict[str, float] = {}
    for phase in rows["phase"]:
        mark = re.compile(rows["prefix"] + phase["line"])
        ends = [moment(match["time"], began) - began for line in log if (match := mark.match(line))]
        if ends and max(ends) >= -RESOLUTION_S:
            found[phase["name"]] = max(0.0, *ends)
    return dict(sorted(found.items(), key=lambda item: item[1]))
