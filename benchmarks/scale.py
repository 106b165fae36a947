"""What a controller of 50, 200 and 500 hosts costs: memory, open files, threads, seconds, and bytes of logs.

    python -m benchmarks.scale [--hosts 50 200 500] [--commands probe plan status drift hold] [--unsound 500] [--sshd PATH]

The hosts are simulated (benchmarks/simulated_hosts.py): each is a loopback address where OpenSSH's server answers. With `probe` each of
them really runs the probe; with the others it answers with what the probe printed there. All of them share this machine with the controller, so the seconds are an upper bound and `hosts_cpu_s` says what
the hosts took of them; memory, open files, threads and the controller's own CPU seconds do not depend on that. Measured are:

    probe, plan, status, drift     the commands as a person types them
    hold                           what a run that changes hosts keeps of each: its lock, over an open connection, with the result
                                   of each phase recorded; then the end of the run. Nothing is installed.
    show, page                     the text and the page of a provisioned fleet's run, with three failed hosts, from its records

and `status` again with 1 % of the hosts silent (they accept a connection and say nothing), and with 1 % endless.
A whole `provision` is not simulated: it needs an environment and a service on each host.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, header, publish, say
from benchmarks.process_tree import Observed, observe
from benchmarks.simulated_hosts import (
    SimulatedHosts,
    address,
    cpu_of_children,
    simulated_hosts,
    sshd_program,
    wait_for_quiet,
)
from provision.core.models.phase_names import PHASES
from provision.core.models.records import PhaseResult
from provision.pipeline import CommandRequest
from provision.pipeline.context import RunContext
from provision.pipeline.phases import PROBE
from provision.pipeline.playbooks import acquire_locks
from provision.pipeline.results import ProbedHosts
from provision.pipeline.runner import execute
from provision.pipeline.step import Step
from tests.report.page import fleets

SIZES = (50, 200, 500)
MOST_MEMORY_MB = 400.0
MOST_OPEN_FILES = 1500
MOST_THREADS = 64
"""Of a command that only reads: 32 workers, and what they and their connections need."""
LIMIT_S = 900.0
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "probe": ("probe",),
    "plan": ("plan",),
    "status": ("status",),
    "drift": ("drift",),
}

REAL = ("probe",)
"""Commands for which each host runs the probe; for others it replays one answer, so that this machine's own work is not measured."""


def hold(context: RunContext, probed: ProbedHosts) -> ProbedHosts:
    """Lock all hosts for the rest of the run, and record how each phase ended for each of them."""
    acquire_locks(context, probed, "install", context.hosts())
    for phase in PHASES[1:]:
        for host in context.hosts():
            context.record(PhaseResult(host=host.name, phase=phase, status="ok", seconds=1.0))
    return probed


def hold_all(inventory: Path, logs: Path) -> int:
    """Run as a process of its own: hold all hosts of an inventory."""
    request = CommandRequest("provision", inventory, None, {}, logs)
    outcome = execute(request, (PROBE, Step("hold", hold, "install")))
    return int(outcome.exit_code)


class Measurement:
    """Commands on one fleet of simulated hosts."""

    def __init__(self, hosts: SimulatedHosts, scratch: Path) -> None:
        self._hosts = hosts
        self._inventory = hosts.write_inventory()
        self._logs = scratch / "logs"
        self._scratch = scratch

    def run(self, name: str) -> dict[str, Any]:
        """Measure one command; its folder of logs is counted."""
        if name == "hold":
            command = [sys.executable, "-m", "benchmarks.scale", "--hold", str(self._inventory), str(self._logs)]
        else:
            command = [str(ROOT / "firstlight"), *COMMANDS[name], "-i", str(self._inventory)]
        self._hosts.replays = name not in REAL
        before = cpu_of_children()
        done = measured(command, self._scratch, {"FIRSTLIGHT_LOGS": str(self._logs)})
        wait_for_quiet(self._hosts)
        # children of this process: the command itself, and the hosts' servers
        figures = done.figures() | {"hosts_cpu_s": round(cpu_of_children() - before - done.cpu_s, 1)}
        run = (self._logs / ("queries" if name in COMMANDS else "") / "latest").resolve()
        return figures | {"exit_code": done.code} | _logs_of(run, self._hosts.number) | _others(run)


def measured(command: list[str], scratch: Path, environment: Mapping[str, str]) -> Observed:
    """Run a command with its own cache, so that nothing is remembered of other inventories."""
    return observe(
        command,
        folder=scratch,
        cwd=ROOT,
        environment={"FIRSTLIGHT_CACHE": str(scratch / "cache"), **environment},
        limit_s=LIMIT_S,
    )


def _logs_of(run: Path, hosts: int) -> dict[str, Any]:
    files = [path for path in run.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return {"log_files": len(files), "log_bytes": size, "log_bytes_per_host": round(size / hosts)}


def _others(run: Path) -> dict[str, Any]:
    """Return how many hosts answered, and the seconds from the start of the run until the last of them was probed."""
    started = datetime.fromisoformat(json.loads((run / "run.json").read_bytes())["started_at"])
    summary = json.loads((run / "summary.json").read_bytes())
    ended = [
        (datetime.fromisoformat(facts["probed_at"]) - started).total_seconds()
        for facts in (json.loads(path.read_bytes()) for path in run.glob("facts/*.json"))
    ]
    states: dict[str, int] = {}
    for host in summary["hosts"]:
        states[host["state"]] = states.get(host["state"], 0) + 1
    return {"answered": len(ended), "last_answer_s": round(max(ended, default=0.0), 2), "states": states}


def report(hosts: int, scratch: Path) -> dict[str, Any]:
    """Measure the text and the page of a large fleet's run."""
    run = fleets.large(scratch / "runs", hosts=hosts)
    found: dict[str, Any] = {}
    for name, words in (("show", ("show", run.name, "--full")), ("page", ("open", run.name, "--no-browser"))):
        # As for a killed run: everything is made again from the records.
        for made in run.folder.glob("summary.*"):
            made.unlink()
        command = [str(ROOT / "firstlight"), "logs", *words]
        done = measured(command, scratch, {"FIRSTLIGHT_LOGS": str(run.folder.parent)})
        found[name] = done.figures() | {"exit_code": done.code, "lines": done.out.count(b"\n")}
    found["page"]["bytes"] = run.path("summary.html").stat().st_size
    return found


def on_hosts(sshd: str, number: int, measure: Callable[[Measurement], Any], **unsound: set[str]) -> Any:
    """Measure on a new fleet of simulated hosts."""
    with tempfile.TemporaryDirectory(prefix="firstlight-") as name:
        scratch = Path(name)
        scratch.chmod(0o755)
        (scratch / "hosts").mkdir()
        with simulated_hosts(sshd, scratch / "hosts", number, **unsound) as hosts:
            return measure(Measurement(hosts, scratch))


def sound(sshd: str, number: int, commands: tuple[str, ...]) -> dict[str, Any]:
    """Measure all commands on sound hosts, and the report."""

    def measure(measurement: Measurement) -> dict[str, Any]:
        found = {}
        for name in commands:
            found[name] = measurement.run(name)
            say(f"{number} hosts, {name}: {found[name]}")
        return found

    found: dict[str, Any] = on_hosts(sshd, number, measure)
    with tempfile.TemporaryDirectory(prefix="firstlight-") as name:
        found |= report(number, Path(name))
    say(f"{number} hosts, show: {found['show']}; page: {found['page']}")
    return found


def unsound(sshd: str, number: int) -> dict[str, Any]:
    """Measure `status` with sound hosts, with 1 % of the hosts silent, and with 1 % endless."""
    bad = {address(place) for place in range(number // 200, number, 100)}
    found: dict[str, Any] = {"hosts": number, "bad": len(bad)}
    for kind, hosts in (("none", {}), ("silent", {"silent": bad}), ("endless", {"endless": bad})):
        found[kind] = on_hosts(sshd, number, lambda measurement: measurement.run("status"), **hosts)
        say(f"{number} hosts, {len(bad)} of them {kind}: {found[kind]}")
    return found


def within(figures: Mapping[str, Any]) -> bool:
    """Return whether a command's memory and open files, with its children's, keep to the aim."""
    return bool(
        figures["with_children_mb"] <= MOST_MEMORY_MB and figures["open_files_with_children"] <= MOST_OPEN_FILES
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--commands", nargs="+", default=[*COMMANDS, "hold"], choices=[*COMMANDS, "hold"])
    parser.add_argument(
        "--unsound", type=int, help="how many hosts, of which 1 %% are silent or endless; default: the largest number"
    )
    parser.add_argument("--sshd", help="OpenSSH's server, where it is not installed")
    parser.add_argument("--hold", nargs=2, metavar=("INVENTORY", "LOGS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.hold:
        return hold_all(*map(Path, given.hold))
    sshd = sshd_program(given.sshd)
    result = header("scale", ("paramiko", "fabric", "pydantic"))
    result["sound"] = {str(number): sound(sshd, number, tuple(given.commands)) for number in given.hosts}
    result["unsound"] = unsound(sshd, given.unsound or max(given.hosts))
    rows = [figures for commands in result["sound"].values() for figures in commands.values()]
    rows += [figures for figures in result["unsound"].values() if isinstance(figures, dict)]
    met = all(map(within, rows))
    result["aim"] = {"memory_mb": MOST_MEMORY_MB, "open_files": MOST_OPEN_FILES, "met": met}
    # Memory, open files and bytes do not depend on other work of the machine; the load is in the result.
    publish(result, "scale", always=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
