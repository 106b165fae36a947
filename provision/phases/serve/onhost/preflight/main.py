"""Check that the server may start. Runs before each start.

    preflight.pyz --prefix P --user U [--bind A --port N] [--gpus 0,1 --memory-share 0.9]
                  [--json]                                        # only report, end no process
                  [--environment-file FILE -- COMMAND ...]        # then run the server in this process (under supervisor)

Ends orphaned engine processes of this installation: processes that an earlier start of ours recorded (or whose account
runs nothing else) and whose server is gone. Then checks the port, the memory of the GPUs, the memory that processes
share, and the disk space of the caches.

Exit status 0 when the server may start, 1 with the reasons on stderr, which is the journal.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .disk import cache_problem, check_shared_memory
from .gpu_memory import amd_memory, check_gpu_memory, nvidia_memory
from .launch import run_server
from .orphans import end_processes, find_orphans, remove_stale_proofs
from .ports import port_problem
from .processes import describe
from .report import Report


def check_host(options: argparse.Namespace) -> Report:
    """Run all checks. End orphans, except with `--json`."""
    report = Report()
    orphans = find_orphans(options.prefix, options.user)
    report.orphans = [process.pid for process in orphans]
    if orphans and not options.json:
        names = ", ".join(describe(process) for process in orphans)
        left = end_processes(orphans)
        if left:
            report.problems.append(f"orphans of an earlier start do not end: {', '.join(map(describe, left))}")
        else:
            report.notes.append(f"ended orphans of an earlier start: {names}")
    if not options.json:
        remove_stale_proofs(options.prefix)
    taken = port_problem(options.bind, options.port) if options.port else None
    full = cache_problem(options.prefix)
    report.problems += [problem for problem in (taken, full) if problem]
    if options.gpus:
        indexes = [int(index) for index in options.gpus.split(",")]
        check_gpu_memory(nvidia_memory() or amd_memory(), indexes, options.memory_share, report)
        check_shared_memory(len(indexes), report)
    return report


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="preflight", description="Check that the server may start.")
    parser.add_argument("--prefix", type=Path, required=True)
    parser.add_argument("--user", required=True, help="account that the server runs as")
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--port", type=int, help="of the server; none where it answers no requests")
    parser.add_argument("--gpus", default="", help="indexes of the chosen GPUs")
    parser.add_argument("--memory-share", type=float, default=0.9)
    parser.add_argument("--json", action="store_true", help="print a report as JSON and end no process")
    parser.add_argument("--environment-file", type=Path)
    parser.add_argument("command", nargs="*", help="after `--`: the server to run when nothing prevents it")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    report = check_host(options)
    if options.json:
        answer: dict[str, Any] = {"may_start": not report.problems, **asdict(report)}
        sys.stdout.write(json.dumps(answer) + "\n")
        return 1 if report.problems else 0
    for line in report.notes:
        sys.stderr.write(f"preflight: {line}\n")
    for line in report.problems:
        sys.stderr.write(f"preflight refuses: {line}\n")
    if report.problems:
        return 1
    if options.command:
        run_server(options.command, options.environment_file, options.user)
    return 0
