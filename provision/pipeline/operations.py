"""Commands on what is installed already: verify, serve, status, stop, rollback, uninstall."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision.core.errors import Exit, RemoteCommandError, ServeError
from provision.core.models.facts import HostFacts
from provision.core.models.records import CheckRecord, PhaseName, PhaseResult
from provision.core.models.settings import Host
from provision.core.run_folder import require_writable, write_atomically
from provision.phases.stage import Store
from provision.pipeline import Request, playbooks, probe, stage
from provision.pipeline import serve as serving
from provision.pipeline import verify as checks
from provision.pipeline.commands import print_summary, without_answer, write_stdout
from provision.pipeline.context import RunContext
from provision.pipeline.phases import PLAN, PROBE, Step
from provision.pipeline.runner import execute
from provision.report.last_verify import verified_line
from verify.junit import junit
from verify.records import EXIT_CODES, Level, worst

if TYPE_CHECKING:
    from provision.phases.verify.selection import Picked

READ_DEADLINE_S = 60.0
UNFOLDED = 10_000
"""Columns of a table that a program or a file takes: no row needs more."""


def verify(
    request: Request,
    *,
    level: Level,
    as_json: bool,
    junit_file: Path | None = None,
    drain: bool = False,
    soak_minutes: float | None = None,
    picked: Picked | None = None,
) -> int:
    """Check every host's live environment, and compare the hosts; exit code by the scale of the checks.

    From level `standard` on several hosts are also tried together. With `drain` what serves there is stopped for the
    checks, then started and proven again; with `soak_minutes` each host's service and kernels are asked again and again
    for so long instead. `picked` says which checks run where not all of the level do: then hosts are not tried together.
    """
    meet = level != "quick" and soak_minutes is None and picked is None
    if picked:
        picked.listed(level)

    def step(context: RunContext) -> None:
        if drain:
            checks.check_drained(context, level=level, meet=meet, picked=picked)
        else:
            checks.check(context, context.hosts(), level=level, soak_minutes=soak_minutes, meet=meet, picked=picked)

    if junit_file:
        require_writable(junit_file, "--junit")
    summary, code = execute(request, (PROBE, ("verify", step)))
    if code == Exit.INTERRUPTED:
        print_summary(request, summary, as_json=as_json)
        return code
    paths = sorted((request.logs / summary.run).glob("verify/*.json"))
    documents = [json.loads(path.read_bytes()) for path in paths]
    found = [check for document in documents for check in document["checks"]]
    records = [*(CheckRecord.model_validate(check) for check in found), *summary.together]
    together = [record.model_dump() for record in summary.together]
    if junit_file:
        write_atomically(junit_file, junit(documents, together))
    unreached = len(documents) < len(summary.hosts)
    if as_json:
        missing = without_answer(summary, {path.stem for path in paths})
        several = {"hosts": documents, "together": together} | ({"missing": missing} if missing else {})
        write_stdout(json.dumps(several if unreached or len(documents) > 1 else documents[0], indent=2))
    else:
        print_checks(records)
        # On a terminal the verdict is the last thing to be seen, however long the table is.
        if unreached or sys.stdout.isatty():
            write_stdout("")
            print_summary(request, summary)
    return EXIT_CODES["error"] if unreached else EXIT_CODES[worst([record.status for record in records])]


def list_checks(picked: Picked, *, level: Level, as_json: bool) -> int:
    """Print the checks of a level with what each proves; no host is asked. Raises UsageError for an unknown name."""
    write_stdout(picked.listed(level, as_json=as_json))
    return Exit.OK


def print_checks(records: list[CheckRecord]) -> None:
    """The checks as a table on standard output, hosts of which the same is told together; a row a line where nobody watches."""
    from rich.console import Console  # noqa: PLC0415 - a JSON run does not pay for it

    from provision.report.checks_table import checks_table  # noqa: PLC0415 - a JSON run does not pay for it
    from provision.report.group import fold_hosts  # noqa: PLC0415 - a JSON run does not pay for it

    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console.width = UNFOLDED
    with console.capture() as taken:
        console.print(checks_table(fold_hosts(records)))
    write_stdout("\n".join(line.rstrip() for line in taken.get().splitlines()), drawn=True)


def serve(request: Request, *, as_json: bool = False) -> int:
    """Start the service anew in the environment that is installed, with the settings as they are now; print the summary."""

    def step(context: RunContext) -> None:
        for host in context.hosts():
            desired, installed = context.desired[host.name], context.facts[host.name].installed
            if installed is None or desired.environment not in installed.environments:
                error = ServeError(
                    f"host `{host.name}`: the environment `{desired.environment}` that is planned is not installed",
                    hint=f"install it first: ./firstlight provision --limit {host.name}",
                )
                context.fail(host.name, "serve", error)
        playbooks.acquire_locks(context, "serve", context.hosts())
        serving.serve(context)

    steps: tuple[Step, ...] = (PROBE, PLAN, ("stage", stage.stage), ("serve", step))
    summary, code = execute(request, steps)
    print_summary(request, summary, as_json=as_json)
    return code


def status(request: Request, *, as_json: bool) -> int:
    """What is installed and serving, as the probe saw it."""
    seen: dict[str, HostFacts] = {}

    def step(context: RunContext) -> None:
        probe.probe(context)
        seen.update(context.facts)

    summary, code = execute(request, (("probe", step),))
    if as_json:
        installed = {name: facts.installed.model_dump() if facts.installed else None for name, facts in seen.items()}
        write_stdout(json.dumps(installed, indent=2))
    else:
        for host in summary.hosts:
            write_stdout(f"{host.name}: {described(seen[host.name]) if host.name in seen else 'not reached'}")
    return code


def described(facts: HostFacts) -> str:
    """One line of what is on a host."""
    installed = facts.installed
    if installed is None or (installed.state is None and not installed.environments):
        return "nothing installed"
    parts = [
        f"environment {installed.current or 'none live'}",
        f"service {installed.service or 'none'}",
        verified_line(installed.last_verify, facts.probed_at, installed.current),
    ]
    parts += [f"drift: {drift.sentence}" for drift in installed.drift]
    if installed.held_by:
        parts.append(f"held by run {installed.held_by.get('run', '?')}")
    return "; ".join(parts)


def stop(request: Request, *, as_json: bool = False) -> int:
    """Stop the service on every host; print a line a host, or the summary as JSON."""
    return _undo(request, "stop", "serve", as_json=as_json)


def uninstall(request: Request, *, as_json: bool = False) -> int:
    """Take everything of this product off every host; print what stays there, or the summary as JSON."""
    return _undo(request, "uninstall", "install", as_json=as_json)


def _undo(request: Request, playbook: str, phase: PhaseName, *, as_json: bool) -> int:
    said: dict[str, PhaseResult] = {}

    def step(context: RunContext) -> None:
        there = context.run_on_hosts(
            phase, context.hosts(), lambda host: _is_present(context, host), deadline_s=READ_DEADLINE_S
        )
        present = [host for host in context.hosts() if there[host.name]]
        for host in context.hosts():
            if not there[host.name]:
                said[host.name] = PhaseResult(
                    host=host.name, phase=phase, status="skipped", text="nothing is installed"
                )
        playbooks.acquire_locks(context, phase, present)
        held = [host for host in present if host.name in context.locked]
        ended = playbooks.run_playbook(
            context, playbook, phase, held, lambda host: context.install_paths[host.name].ansible_vars()
        )
        said.update(ended)
        if playbook == "uninstall":
            context.removed |= set(ended)
            for name in ended:
                Store(context.cache).references.forget(name)
        for result in said.values():
            context.record(result.model_copy(update={"phase": phase}))

    summary, code = execute(request, (PROBE, (phase, step)))
    if as_json:
        print_summary(request, summary, as_json=True)
        return code
    for host in summary.hosts:
        failed = next((result for result in host.phases.values() if result.status in ("failed", "unreachable")), None)
        result = failed or said.get(host.name)
        write_stdout(f"{host.name}: {_line(result, playbook) if result else host.state}")
    return code


def _is_present(context: RunContext, host: Host) -> bool:
    """Whether there is anything of this product on a host, half installed or whole."""
    paths = context.install_paths[host.name]
    return context.session(host).run(f"test -e {shlex.quote(paths.prefix)}", root=paths.root).rc == 0


def _line(result: PhaseResult, playbook: str) -> str:
    """How a host's part ended, and what stays on it."""
    done = {"stop": "stopped", "uninstall": "uninstalled"}[playbook]
    lines = [done if result.status == "ok" else f"{result.status}: {result.text}"]
    if result.status == "ok":
        lines += [f"  left: {left}" for left in result.evidence]
    return "\n".join([*lines, *([f"  hint: {result.hint}"] if result.hint else [])])


def rollback(request: Request, *, as_json: bool = False) -> int:
    """Switch to the environment before, with its own unit and settings, restart, and prove it; print the summary."""

    def step(context: RunContext) -> None:
        started = time.monotonic()
        playbooks.acquire_locks(context, "serve", context.hosts())
        hosts = context.hosts()
        played = playbooks.run_playbook(
            context, "rollback", "serve", hosts, lambda host: context.install_paths[host.name].ansible_vars()
        )
        back = [host for host in hosts if host.name in played]
        requests = context.run_on_hosts("serve", back, _reader(context), deadline_s=READ_DEADLINE_S)
        for host in back:
            if host.name in requests and requests[host.name] is None:
                context.record(played[host.name].model_copy(update={"phase": "serve"}))
        known = {name: request for name, request in requests.items() if request is not None}
        serving.prove(context, [host for host in back if host.name in known], known, played, started)

    summary, code = execute(request, (PROBE, ("serve", step)))
    print_summary(request, summary, as_json=as_json)
    return code


def _reader(context: RunContext) -> Callable[[Host], dict[str, Any] | None]:
    """Reads what the environment that is live now has to answer; null where it serves nothing."""

    def call(host: Host) -> dict[str, Any] | None:
        paths = context.install_paths[host.name]
        try:
            state = json.loads(context.session(host).read(f"{paths.prefix}/state.json", root=paths.root))
        except (FileNotFoundError, ValueError):
            raise RemoteCommandError(
                f"host `{host.name}`: {paths.prefix}/state.json cannot be read after the switch",
                hint=f"install again: ./firstlight provision --limit {host.name}",
            ) from None
        readiness = state.get("readiness")
        return readiness if isinstance(readiness, dict) else None

    return call
