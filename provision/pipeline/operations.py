"""Commands on what is installed: verify, serve, status, stop, rollback, uninstall."""

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from provision.catalog.index.uv import run_uv
from provision.catalog.load import overlay_folder
from provision.core import features
from provision.core.errors import Exit, ServeError, StageError
from provision.core.files import folder_bytes, write_atomically
from provision.core.folders import IS_INSTALLED, cache_folder, config_folder
from provision.core.formatting import format_bytes
from provision.core.models.inventory import Host
from provision.core.models.records import CheckRecord, HostSummary, PhaseName, PhaseResult
from provision.core.redaction import redact, scrub
from provision.core.run_folder import require_writable
from provision.phases.serve import step as phase_serve
from provision.phases.stage import Store
from provision.phases.verify.run_checks import CheckOptions, broken
from provision.phases.verify.step import verify_live
from provision.pipeline import CommandRequest, host_status
from provision.pipeline.commands import print_summary, report_missing, without_answer, write_stdout
from provision.pipeline.phases import AFTER_SERVE, BEFORE_PLAN, PLAN, PROBE, STAGE
from provision.pipeline.runner import execute
from provision.report.group import SEVERITY, families, merge_equal_records
from provision.report.next_steps import command_lines
from provision.report.summary_builder import complete_remedies
from provision.run import playbooks
from provision.run.context import RunContext, left_out
from provision.run.host_changes import missing_files
from provision.run.results import AnsweredHosts, CheckedHosts, ProbedHosts, StagedHosts, VerifiedHosts
from provision.run.rollback import require_digest, roll_back
from provision.run.step import Scope, Step
from verify.printable import printable
from verify.records import EXIT_CODES, worst_status
from verify.runner.report import junit

READ_DEADLINE_S = 60.0
DRIVER_RECORDS = "/var/lib/firstlight-drivers"
"""What lies on a host as long as drivers that this product installed do."""
UNFOLDED = 10_000
"""Columns of a table for a program or a file: no row is wider."""
COLOURS = {"ok": "green", "skip": "dim", "warn": "yellow", "fail": "red", "error": "red"}


def verify(
    request: CommandRequest,
    options: CheckOptions,
    *,
    junit_file: Path | None = None,
    check_hosts: Callable[[RunContext, ProbedHosts, CheckOptions], CheckedHosts] = verify_live,
) -> int:
    """Check the live environment of every host, compare the hosts, print the checks, and return the exit code on their scale.

    Args:
        junit_file: Where a JUnit report is written too.
        check_hosts: Checks the hosts, or some of them.

    Raises:
        UsageError: A check is unknown, or the report cannot be written.
    """
    if options.selection:
        options.selection.listed(options.level)
    if junit_file:
        require_writable(junit_file, "--junit")
    step = Step("verify", lambda context, probed: check_hosts(context, probed, options), "verify")
    outcome = execute(request, (PROBE, step))
    checked = outcome.result
    if outcome.exit_code == Exit.INTERRUPTED or not isinstance(checked, CheckedHosts):
        return print_summary(outcome)
    documents = {name: scrub(checked.documents[name]) for name in sorted(checked.documents)}
    records = [CheckRecord.model_validate(check) for document in documents.values() for check in document["checks"]]
    records += (*checked.aggregate, *checked.around)
    aggregate, around = (scrub([one.model_dump() for one in part]) for part in (checked.aggregate, checked.around))
    conclusion = checked.conclusion
    asked = [host for host in outcome.hosts if host.is_provisioned and host.name not in checked.left_out]
    # Of a host that is only a gateway or a monitoring host there is no document.
    lost = {host.name for host in outcome.hosts if not host.is_provisioned and host.name not in checked.facts}
    unreached = len(documents) < len(asked) or bool(lost)
    others = {host.name for host in outcome.hosts} - {host.name for host in asked} - lost
    missing = without_answer(outcome.summary, documents.keys() | others)
    if junit_file:
        silent = [broken(one["host"], one["text"] or one["state"], remedy=one["hint"]).document for one in missing]
        write_atomically(junit_file, junit([*documents.values(), *silent], [*aggregate, *around]))
    if request.as_json:
        several = {"hosts": list(documents.values()), "host_comparison": aggregate}
        several |= {"missing": missing} if missing else {}
        several |= scrub(dict(conclusion.document)) if conclusion else {}
        is_one = len(documents) == 1 and not unreached and conclusion is None
        document = dict(next(iter(documents.values()))) if is_one else several
        document |= {"around_hosts": around} if around else {}
        write_stdout(json.dumps(document, indent=2))
    else:
        print_checks(complete_remedies(records, request.invocation))
        if conclusion:
            write_stdout(redact("\n".join(conclusion.lines)))
        # On a terminal the verdict comes last, however long the table is.
        if unreached or sys.stdout.isatty():
            write_stdout("")
            print_summary(outcome)
    is_green = all(record.status in ("ok", "skip") for record in records)
    if unreached or (conclusion and not conclusion.is_green and is_green):
        return EXIT_CODES["error"]
    return EXIT_CODES[worst_status([record.status for record in records])] if asked else Exit.OK


def print_checks(records: Sequence[CheckRecord]) -> None:
    """Print the checks that did not pass and a line for each family; without a terminal a row is one line, without checks nothing."""
    if not records:
        return
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console.width = UNFOLDED
    with console.capture() as taken:
        console.print(checks_table(records))
    write_stdout("\n".join(line.rstrip() for line in taken.get().splitlines()), drawn=True)


def checks_table(checks: Sequence[CheckRecord]) -> Table:
    """Return failures and warnings with their remedies, the worst first, then counts and figures of each family."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("status", "check"):
        table.add_column(heading, no_wrap=True)
    table.add_column("where", overflow="fold", max_width=30)
    table.add_column("result", overflow="fold")
    wrong = merge_equal_records([check for check in checks if check.status in ("warn", "fail", "error")])
    rows: list[tuple[str, str, str, str]] = []
    for check in sorted(wrong, key=lambda check: SEVERITY[check.status]):
        where = " ".join(filter(None, (check.host, check.device)))
        result = f"{check.reason}\nremedy: {check.remedy}" if check.remedy else check.reason
        rows.append((check.status, check.id, where, result))
    rows += [(ended.split()[1].rstrip(","), family, ended, shown) for family, ended, shown in families(checks)]
    for row in rows:
        status, *cells = map(Text, map(printable, row))  # text from a host is neither markup nor a terminal command
        status.stylize(COLOURS[row[0]])
        table.add_row(status, *cells)
    return table


def serve(request: CommandRequest) -> int:
    """Start the service in the installed environment with the current settings, prove it, and print the summary."""
    return print_summary(execute(request, (*BEFORE_PLAN, PLAN, STAGE, Step("serve", _serve_installed, "serve"))))


def _serve_installed(context: RunContext, staged: StagedHosts) -> VerifiedHosts:
    for host in context.hosts():
        desired, facts = staged.desired[host.name], staged.facts[host.name]
        names = {"wheel": f"the planned environment `{desired.environment}`", "model": "its model"}
        kinds = {file.kind for file in missing_files(desired, facts, staged.staged[host.name].files)}
        if lacking := [name for kind, name in names.items() if kind in kinds]:
            error = ServeError(
                f"host `{host.name}`: {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not installed",
                hint=f"install it first: ./firstlight provision --limit {host.name}",
            )
            context.fail(host.name, "serve", error)
    playbooks.acquire_locks(context, staged, "serve", context.hosts())
    # The answers of a host in the desired state are checked too.
    verified = VerifiedHosts(**{**vars(staged), "up_to_date": frozenset()})
    return phase_serve.serve(context, verified, again=staged.up_to_date)


def status(request: CommandRequest) -> int:
    """Print what is installed and serving, as the probe and features say. What changed on a host since its last run, and a service that failed, make it red."""
    asking = Step("status", host_status.ask_features, "probe", "all", reads_only=True)
    outcome = execute(request, (PROBE, asking))
    found = outcome.result.facts
    parts = outcome.result.answer if isinstance(outcome.result, AnsweredHosts) else {}
    out = {host.name: left_out(request.logs, host, found.get(host.name)) for host in outcome.hosts}
    serving = {
        host.name: host_status.serving_of(host, found[host.name]) for host in outcome.hosts if host.name in found
    }
    is_red = any(had.drift or had.service == "failed" for facts in found.values() if (had := facts.installed))
    is_red = is_red or any(part.is_red for own in parts.values() for part in own)
    code = outcome.exit_code or (Exit.RED if is_red else Exit.OK)
    if request.as_json:
        installed: dict[str, Any] = dict.fromkeys(found)
        for name, had in ((name, facts.installed) for name, facts in found.items() if facts.installed):
            why = out[name]
            installed[name] = {**had.model_dump(), "quarantine": why.record if why else None, "serving": serving[name]}
            for part in parts.get(name, ()):
                installed[name] |= part.document
        write_stdout(json.dumps(scrub(installed, by_names=True), indent=2))
        report_missing(without_answer(outcome.summary, found.keys()))
        return code
    summaries = {host.name: host for host in outcome.summary.hosts}
    for host in outcome.hosts:
        failed = _failed_phase(summaries[host.name])
        line = failed.text if failed and failed.text else "not reached"
        if host.name in found:
            own = parts.get(host.name, ())
            line = host_status.described(host, found[host.name], serving=serving[host.name], parts=own)
        reason = f"; {why.reason}" if (why := out[host.name]) else ""
        write_stdout(redact(f"{host.name}: {line}{reason}"))
    for entry in next((one["call"] for one in serving.values() if one), ()):
        write_stdout("\n".join(command_lines(entry)))
    return code


def stop(request: CommandRequest) -> int:
    """Stop the service on every host; print a line a host, or the summary as JSON."""
    return _run_and_report(request, "stop", "serve")


def uninstall(request: CommandRequest, *, drivers: bool = False) -> int:
    """Remove everything of this product from every host; print what remains there and here, or the summary as JSON.

    Args:
        drivers: Whether the drivers that this product installed are removed too, also from hosts that have nothing else of it.
    """
    code = _run_and_report(request, "uninstall", "install", drivers=drivers)
    if not request.as_json:
        write_stdout(controller_remains(request.logs))
    return code


def _run_and_report(request: CommandRequest, playbook: str, phase: PhaseName, *, drivers: bool = False) -> int:
    scope: Scope = "all" if playbook == "uninstall" else "provisioned"
    step = Step(playbook, partial(_run_where_installed, playbook=playbook, phase=phase, drivers=drivers), phase, scope)
    outcome = execute(request, (PROBE, step))
    if request.as_json:
        return print_summary(outcome)
    for host in outcome.summary.hosts:
        result = _failed_phase(host) or host.phases.get(phase)
        is_over = result is not None and result.status != "interrupted"
        line = _line(result, playbook) if result and is_over else host.state
        write_stdout(f"{host.name}: {request.invocation.complete(line)}")
    return outcome.exit_code


def _failed_phase(host: HostSummary) -> PhaseResult | None:
    return next((result for result in host.phases.values() if result.status in ("failed", "unreachable")), None)


def _run_where_installed(
    context: RunContext, probed: ProbedHosts, *, playbook: str, phase: PhaseName, drivers: bool
) -> ProbedHosts:
    """Run a playbook on the hosts that have anything of this product, complete or not."""
    also = f" || test -e {DRIVER_RECORDS}" if drivers else ""

    def is_present(host: Host) -> bool:
        paths = probed.install_paths[host.name]
        return context.session(host).run(f"test -e {shlex.quote(paths.prefix)}{also}", root=paths.root).rc == 0

    there = context.run_on_hosts(phase, context.hosts(), is_present, deadline_s=READ_DEADLINE_S)
    present = [host for host in context.hosts() if there[host.name]]
    results = {
        host.name: PhaseResult(host=host.name, phase=phase, status="skipped", text="nothing is installed")
        for host in context.hosts()
        if not there[host.name]
    }
    locked = playbooks.acquire_locks(context, probed, phase, present)
    variables = {"uninstall_drivers": True} if drivers else {}
    ended = playbooks.run_playbook(context, probed, playbook, locked, lambda _: variables, phase=phase)
    results |= ended
    if playbook == "uninstall":
        context.outcomes.removed |= set(ended)
        for name in ended:
            Store(context.cache).references.forget(name)
    for result in results.values():
        context.record(result)
    return probed


def _line(result: PhaseResult, playbook: str) -> str:
    """Return how a command ended on a host, and what remains there."""
    done = {"stop": "stopped", "uninstall": "uninstalled"}[playbook]
    lines = [done if result.status == "ok" else f"{result.status}: {result.text}"]
    if result.status == "ok":
        lines += [f"  remains: {left}" for left in result.evidence]
    return "\n".join([*lines, *([f"  hint: {result.hint}"] if result.hint else [])])


def rollback(request: CommandRequest, *, to: str | None = None) -> int:
    """Switch to an earlier release, by its digest, or to the one before; restart, prove it, print the summary, and return the exit code.

    Raises:
        UsageError: `to` is no digest.
    """
    digest = require_digest(to) if to is not None else None
    back = Step("rollback", partial(roll_back, to=digest), "serve")
    outcome = execute(request, (PROBE, back, *AFTER_SERVE))
    features.call("rolled_back", request.logs, outcome)
    return print_summary(outcome)


def controller_remains(logs: Path) -> str:
    """Return the folders of this product on this machine as text: each with its size, and the command that removes it."""
    folders = {cache_folder(): "wheels, interpreters and models"}
    with contextlib.suppress(StageError):  # malformed settings of uv must not fail a removal that is done
        uv = Path(run_uv(["cache", "dir"], Path.cwd(), {}).strip())
        folders[uv] = "packages that uv keeps, also for other programs"
    kept = "your inventory, " if (config_folder() / "inventory").exists() else ""
    folders |= {logs: "records of the runs", config_folder(): f"{kept}keys of bundles, and rows of your package index"}
    if not overlay_folder().is_relative_to(config_folder()):
        folders[overlay_folder()] = "rows of your package index"
    if not IS_INSTALLED and sys.prefix != sys.base_prefix:
        folders[Path(sys.prefix)] = "the environment of ./firstlight"
    lines = ["this machine, from which the hosts were reached: nothing is removed"]
    for path, what in ((folder.absolute(), what) for folder, what in folders.items()):
        if size := folder_bytes(path):
            lines.append(f"  remains: {path}, {format_bytes(size)} ({what}): rm -rf {shlex.quote(str(path))}")
    return "\n".join(lines)
