"""Where the time of the suite goes: `./firstlight test --all -p tests.times`, then `python -m tests.times FOLDER` writes the table of tests/README.md.

As a plugin of pytest it appends one JSON line for each event to FOLDER/PROCESS.jsonl (FIRSTLIGHT_TEST_TIMES, by default build/test-times):
set-up, call and teardown of each test, set-up of each fixture, each boot of a host, each command of the product on hosts with the seconds of
its phases from its own summary.json, and each wait in a test's own thread. Times are of the wall clock.
"""

import functools
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from shutil import disk_usage  # as it is now: a test may replace that of the module
from typing import Any

import pytest

from benchmarks.harness import machine

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("FIRSTLIGHT_TEST_TIMES") or ROOT / "build/test-times")
README = ROOT / "tests/README.md"
BEGIN, END = "<!-- times: begin -->", "<!-- times: end -->"
SLOWEST = 10
GIB = 1 << 30
LEAST_S = 0.01
"""Shorter fixtures and waits are not recorded."""
PHASES = {
    "stage": "locks and downloads of the product",
    "install": "installation on hosts",
    "verify": "checks on hosts",
    "serve": "starts of engines",
}
"""Phases of a command on hosts, as its summary.json names them, and what takes the time there."""


class Recorder:
    """The plugin: writes events of this process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._test = ""

    def write(self, kind: str, seconds: float, what: str = "") -> None:
        """Append an event of the current test."""
        if seconds >= LEAST_S:
            event = {"kind": kind, "what": what, "test": self._test, "seconds": round(seconds, 3)}
            event |= {"at": round(time.time(), 1), "disk_gib": round(disk_usage(ROOT).used / GIB, 2)}
            self._file.write(json.dumps(event) + "\n")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._test = item.nodeid
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "worker_id" not in report.__dict__:  # the main process hears of each test once more
            self._test = report.nodeid
            self.write(report.when or "call", report.duration)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        started = time.monotonic()
        try:
            return (yield)
        finally:
            self.write("fixture", time.monotonic() - started, f"{fixturedef.baseid}::{fixturedef.argname}")

    def watch_hosts(self) -> None:
        """Record boots, commands on hosts and waits from here on."""
        from tests.fleet.command_runner import CommandRunner
        from tests.fleet.machine import Machine

        for name in ("boot", "reboot", "remove"):
            setattr(Machine, name, self._timed(getattr(Machine, name), f"host {name}"))
        end = CommandRunner.end

        def ended(runner: CommandRunner, process: Any, **options: Any) -> Any:
            found = end(runner, process, **options)
            summary = found.run / "summary.json"
            if summary.exists():
                for phase, seconds in (json.loads(summary.read_text()).get("phase_seconds") or {}).items():
                    self.write(f"phase {phase}", seconds, " ".join(map(str, process.args[3:5])))
            return found

        setattr(CommandRunner, "end", ended)  # noqa: B010 - mypy knows that methods are not assigned
        sleep = time.sleep

        def slept(seconds: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                self.write("wait", float(seconds))
            sleep(seconds)

        time.sleep = slept

    def _timed(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.monotonic()
            try:
                return function(*arguments, **options)
            finally:
                self.write(kind, time.monotonic() - started)

        return timed


def pytest_configure(config: pytest.Config) -> None:
    """Record in each process that runs tests."""
    recorder = Recorder(FOLDER / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.jsonl")
    config.pluginmanager.register(recorder)
    recorder.watch_hosts()


def read(folder: Path) -> list[dict[str, Any]]:
    """Return all events of a folder, each with its process."""
    return [
        {**json.loads(line), "process": file.stem}
        for file in sorted(folder.glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


def total(events: Iterable[dict[str, Any]]) -> float:
    """Return the sum of the events' seconds."""
    return float(sum(event["seconds"] for event in events))


def disk(events: list[dict[str, Any]]) -> str:
    """Return the most that the disk held, and which tests ran then: of each process the one whose event ended next."""
    peak = max(events, key=lambda event: event["disk_gib"])
    more = peak["disk_gib"] - min(event["disk_gib"] for event in events)
    ran: dict[str, str] = {}
    for event in sorted(events, key=lambda event: event["at"]):
        if event["at"] >= peak["at"]:
            ran.setdefault(event["process"], event["test"])
    return f"The disk held at most {more:.1f} GiB more than at the start, while these ran: {', '.join(sorted(ran.values()))}."


def place(test: str) -> str:
    """Return the folder of a test, or its file if it runs on hosts."""
    file = test.partition("::")[0]
    return file if file.startswith("tests/fleet/") else "/".join(file.split("/")[:2])


def tables(events: list[dict[str, Any]]) -> str:
    """Return the tables in Markdown: what takes the time, by place, and the slowest tests and fixtures."""
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        by_kind[event["kind"]].append(event)
    tests = [event for kind in ("setup", "call", "teardown") for event in by_kind[kind]]
    rows = [("all tests", total(tests), len({event["test"] for event in tests}))]
    rows += [(f"of that, {kind}", total(by_kind[kind]), len(by_kind[kind])) for kind in ("setup", "call", "teardown")]
    rows += [
        (f"hosts: {kind.removeprefix('host ')}", total(by_kind[kind]), len(by_kind[kind]))
        for kind in ("host boot", "host reboot", "host remove")
    ]
    rows += [(text, total(by_kind[f"phase {phase}"]), len(by_kind[f"phase {phase}"])) for phase, text in PHASES.items()]
    rows.append(("waits in tests", total(by_kind["wait"]), len(by_kind["wait"])))
    lines = ["| what | seconds | times |", "|---|---|---|"]
    lines += [f"| {what} | {seconds:.0f} | {count} |" for what, seconds, count in rows]
    places: dict[str, float] = defaultdict(float)
    each: dict[str, float] = defaultdict(float)
    for event in tests:
        places[place(event["test"])] += event["seconds"]
        each[event["test"]] += event["seconds"]
    lines += ["", "| folder, or file on hosts | seconds |", "|---|---|"]
    lines += [
        f"| {name} | {seconds:.0f} |"
        for name, seconds in sorted(places.items(), key=lambda row: -row[1])
        if seconds >= SLOWEST
    ]
    for title, ranked in (("slowest tests", each), ("slowest fixtures", _sums(by_kind["fixture"]))):
        lines += ["", f"| {title} | seconds |", "|---|---|"]
        lines += [
            f"| {name} | {seconds:.0f} |" for name, seconds in sorted(ranked.items(), key=lambda row: -row[1])[:SLOWEST]
        ]
    return "\n".join(lines)


def _sums(events: list[dict[str, Any]]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for event in events:
        sums[event["what"]] += event["seconds"]
    return sums


def main(folder: str) -> int:
    events = read(Path(folder))
    if not events:
        sys.stderr.write(f"error: {folder} has no times\n\nhint: ./firstlight test --all -p tests.times\n")
        return 2
    here = machine()
    about = f"On {here['cores']} cores of {here['cpu']}, {here['memory_gib']} GiB, {here['system']}; seconds of all processes together."
    text = README.read_text(encoding="utf-8")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    README.write_text(f"{head}{BEGIN}\n{about}\n{disk(events)}\n\n{tables(events)}\n{END}{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
