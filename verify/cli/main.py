"""Command line: data on stdout, everything else on stderr, exit code from the worst check."""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from verify import VERSION
from verify.binaries import distributions
from verify.cli.arguments import ENVIRONMENTS, Parser, above_zero, keep, prefix_of
from verify.doctor import cli as doctor
from verify.records import (
    BURN_IN,
    BURN_IN_HOURS,
    DRAIN,
    EXIT_CODES,
    INTERRUPTED_EXIT,
    LEVELS,
    SERVING,
    Check,
    CheckContext,
    Level,
    as_record,
    worst_status,
)
from verify.runner import burn_in, last_run
from verify.runner.execution import FAULTS, Injection, run, with_dependencies
from verify.runner.registry import all_checks, select
from verify.runner.report import render, render_list
from verify.serving import service as own_service
from verify.serving.service_control import ControlError, drain_service, resume
from verify.tables import table

OTHERS = ("doctor", "upgrade", "compare", "load", "soak", "multihost", "metrics")
"""Commands other than the checks."""
LISTED = ("id", "family", "level", "description", "requires", "each_device", "faults")
"""What --list tells of a check."""


def main(arguments: list[str]) -> int:
    """Run the requested checks or another command; return the exit code."""
    # The byte code of an environment is listed when it is built: neither this process nor its children may add to it.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    distributions.restart_with_compat()
    if arguments[:1] in ([name] for name in OTHERS):
        command, *words = arguments
        if command == "doctor":
            return doctor.main(words, program="verify doctor")
        return int(import_module(f"verify.cli.{command}").main(words))
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        checks = _chosen(options)
        injections = [_injection(text) for text in options.inject]
        if options.list:
            rows = [{name: getattr(check, name) for name in LISTED} for check in checks]
            sys.stdout.write(json.dumps(rows, indent=2) + "\n" if options.json else render_list(rows))
            return 0
        context = _context(options)
        before = last_run.read_last_run(context.prefix)
        checks, context = _with_failed(checks, context, last_run.failed_levels(before), refute=options.refute)
    except KeyError as error:
        parser.error(f"no check or family is named `{error.args[0]}`")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.resume:
        outcome = resume(context.service) if context.service else None
        sys.stdout.write(f"{outcome.reason if outcome else 'no service was stopped for checks'}\n")
        return EXIT_CODES[outcome.status if outcome else "skip"]
    try:
        document = _checked(checks, context, injections, options)
        document = _with_earlier(document, before, options)
    except (ControlError, burn_in.RunningError, OSError) as error:
        parser.exit(EXIT_CODES["error"], f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED_EXIT, "interrupted\n")
    text = json.dumps(document, indent=2) + "\n"
    # Before it is printed: where nobody reads that any more, this process ends with the first word.
    is_kept = keep(options.write, text)
    sys.stdout.write(text if options.json else render(document))
    sys.stdout.flush()
    return EXIT_CODES[document["status"] if is_kept else "error"]


def _parser() -> Parser:
    parser = Parser(
        prog="verify",
        description="Check that this host computes correctly.",
        epilog="exit codes: 0 all ok or skipped, 1 a warning, 2 a failure, 3 an error (a check has no result), 64 usage; "
        "other commands, each with its --help: `doctor FILE...` names causes of failures, `upgrade MODULE:FACTORY` upgrades "
        "the attention of your model, `compare` measures the service with two attention back ends, `load` under load, `soak` puts load on it for minutes",
        hint="--help explains every option, --list shows every check",
    )
    parser.add_argument("--version", action="version", version=f"verify {VERSION}")
    parser.add_argument("--level", choices=LEVELS, default="standard", help="how much to check (default: standard)")
    hours = f"length of level burn-in; an interrupted one goes on with the next call (default: {BURN_IN_HOURS:g})"
    parser.add_argument("--hours", metavar="N", type=above_zero, help=hours)
    repeatable: dict[str, Any] = {"action": "append", "default": []}
    only = "a check or family, with the checks that it requires; repeatable"
    parser.add_argument("--only", metavar="NAME", help=only, **repeatable)
    parser.add_argument("--skip", metavar="NAME", help="a check or family; repeatable", **repeatable)
    parser.add_argument(
        "--refute", action="store_true", help="run only the failed checks of the last document, and keep the rest of it"
    )
    parser.add_argument("--list", action="store_true", help="list the checks of this level, run none")
    parser.add_argument("--json", action="store_true", help="print the whole document on stdout")
    parser.add_argument("--write", metavar="FILE", type=Path, help="also write the document to this file, atomically")
    parser.add_argument(
        "--progress", metavar="FILE", type=Path, help="keep the number and name of the running check in this file"
    )
    parser.add_argument(
        "--prefix", metavar="DIR", type=Path, help="installation to check (default: this environment's)"
    )
    parser.add_argument("--lock", metavar="FILE", type=Path, help="lock to compare with (default: the installation's)")
    parser.add_argument(
        "--expect", metavar="FILE", help="JSON with the planned `stack` and the expected `gpus`; - reads stdin"
    )
    parser.add_argument("--deadline", metavar="SECONDS", type=above_zero, help="let no check run longer than this")
    drain = "stop this installation's service for the checks, then start and check it again"
    parser.add_argument("--drain", action="store_true", help=drain)
    parser.add_argument(
        "--resume", action="store_true", help="run no checks: start the service that a killed --drain left stopped"
    )
    inject = f"change what the checks (or one of them) observe, to show that they detect it: {', '.join(FAULTS)}"
    parser.add_argument("--inject", metavar="FAULT[@NAME]", help=inject, **repeatable)
    return parser


def _checked(
    checks: list[Check], context: CheckContext, injections: list[Injection], options: argparse.Namespace
) -> dict[str, Any]:
    """Run the checks and return the document; with --drain it has a record of the stopped service. Raises ControlError."""
    service = context.service
    if not options.drain or service is None or service.main_pid is None:
        return _run(checks, context, injections, options)
    began = time.monotonic()
    with drain_service(service) as drain:
        stopped = replace(context, service=replace(service, main_pid=None))
        document = _run(checks, stopped, injections, options)
    assert drain.outcome is not None
    away = time.monotonic() - began
    document["checks"].insert(0, as_record(DRAIN, document["host"], None, drain.outcome, away))
    document["status"] = worst_status([record["status"] for record in document["checks"]])
    return document


def _run(
    checks: list[Check], context: CheckContext, injections: list[Injection], options: argparse.Namespace
) -> dict[str, Any]:
    """Run the checks once, at level burn-in in rounds; there, faults are injected from the second round on."""
    if context.level != BURN_IN:
        return run(checks, context, injections, options.deadline)
    repeated = _repeated(checks)

    def run_round(number: int, text: str) -> dict[str, Any]:
        of_round = (checks, ()) if number == 1 else (repeated, injections)
        document = run(of_round[0], replace(context, round=text), of_round[1], options.deadline)
        return {**document, "injected": [injection.fault for injection in injections]}

    kept = replace(context, prefix=None) if injections else context
    ids, hours = [check.id for check in checks], options.hours or BURN_IN_HOURS
    return burn_in.burn_in(run_round, kept, ids, hours, drain=options.drain)


def _repeated(checks: list[Check]) -> list[Check]:
    """Return the checks of further rounds."""
    chosen = (check for check in checks if check.family in table("burn_in")["families"])
    return with_dependencies(chosen, all_checks())


def _with_failed(
    checks: list[Check], context: CheckContext, failures: Mapping[str, Level], *, refute: bool
) -> tuple[list[Check], CheckContext]:
    """Return the checks to run, with the failed ones of the last run at the level of their failure.

    With `refute` only these run. An installing run includes them too, except for serving checks: the service starts later.
    """
    level_overrides = dict(failures) if refute else {}
    if context.expect.get("serve_follows"):
        for id_, level in failures.items():
            if LEVELS.index(level) > LEVELS.index(context.level) and not id_.startswith(f"{SERVING}."):
                level_overrides[id_] = level
    wanted = [check for check in all_checks() if check.id in level_overrides or (check in checks and not refute)]
    return with_dependencies(wanted, all_checks()), replace(context, level_overrides=level_overrides)


def _with_earlier(document: dict[str, Any], before: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Add results of the last run that still hold; a selection of checks makes no statement about the others."""
    if options.refute:
        return last_run.merge_rerun(document, before)
    carried = last_run.lasting_warnings(document, before)
    document |= {"carried": carried, "runs": last_run.runs_by_level(document, before)}
    if not (options.only or options.skip or options.inject):
        document["checks"] = last_run.keep_open_failures(document, before)
        document["status"] = worst_status([record["status"] for record in document["checks"]])
    return document


def _chosen(options: argparse.Namespace) -> list[Check]:
    if options.hours is not None and options.level != BURN_IN:
        raise ValueError(f"--hours is the length of level {BURN_IN}, and the level is {options.level}")
    level, only, skipped = LEVELS.index(options.level), select(tuple(options.only)), select(tuple(options.skip))
    chosen = [
        check
        for check in all_checks()
        if check.id not in skipped and (check.id in only if only else LEVELS.index(check.level) <= level)
    ]
    if not chosen:
        raise ValueError("no check is left after --only and --skip")
    if options.level == BURN_IN and not _repeated(chosen):
        families = ", ".join(table("burn_in")["families"])
        raise ValueError(f"level {BURN_IN} repeats checks of {families}, and none of them is left")
    return with_dependencies(chosen, all_checks())


def _injection(text: str) -> Injection:
    fault, _, target = text.partition("@")
    if fault not in FAULTS:
        raise ValueError(f"no fault is named `{fault}`; there are {', '.join(FAULTS)}")
    injection = Injection(fault, target or None)
    if not any(injection.hits(check) for check in all_checks()):
        raise ValueError(f"`{target}` is no check or family that detects `{fault}`")
    return injection


def _context(options: argparse.Namespace) -> CheckContext:
    """Return the context of the run; lock and Stack default to those of the environment and its live release."""
    environment = Path(sys.prefix).resolve()
    prefix = prefix_of(options.prefix) if options.prefix or environment.parent.name == ENVIRONMENTS else None
    if options.prefix:
        current = (options.prefix / "current").resolve()
        if current != environment:
            text = f"this Python belongs to {environment}, not to {current}"
            raise ValueError(f"{text}; run {options.prefix}/current/bin/python")
    if options.lock and not options.lock.is_file():
        raise ValueError(f"no lock at {options.lock}")
    lock = options.lock or environment / "lock.txt"
    expect = _json_object(options.expect) if options.expect else {}
    if "stack" not in expect and (stack := distributions.planned_stack(environment)):
        expect = {**expect, "stack": stack}
    return CheckContext(
        level=options.level,
        prefix=prefix,
        lock=lock if lock.is_file() else None,
        expect=expect,
        service=own_service.find(prefix),
        progress=options.progress,
    )


def _json_object(path: str | Path) -> dict[str, Any]:
    content = json.loads(sys.stdin.read() if path == "-" else Path(path).read_text())
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")  # noqa: TRY004 - wrong input, reported like the other ones
    return content
