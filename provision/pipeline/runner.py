"""The run itself: phases in their order, a summary at the end whatever happened in between."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from provision.core.errors import Exit, FirstlightError, UsageError
from provision.core.models.records import PhaseResult, Summary
from provision.core.models.settings import Inventory
from provision.core.redaction import remember
from provision.core.run_folder import RunFolder, is_at_work
from provision.fleet.inventory import load
from provision.pipeline import Request
from provision.pipeline.context import RunContext
from provision.pipeline.phases import Step
from provision.pipeline.phases import load as load_steps
from provision.pipeline.progress import report_progress
from provision.pipeline.signals import as_interrupt
from provision.report import summarise
from provision.report import write as write_summary
from provision.report.history.runs import document
from provision.report.live import open_progress

if TYPE_CHECKING:
    from provision.catalog.index.settings import ClientSettings


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The controller's cache: FIRSTLIGHT_CACHE, else XDG_CACHE_HOME/firstlight, else ~/.cache/firstlight."""
    if named := environ.get("FIRSTLIGHT_CACHE"):
        return Path(named).expanduser()
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "firstlight"


def read_inventory(request: Request) -> Inventory:
    """The hosts of a command, its options applied.

    Raises InventoryError, UsageError.
    """
    overrides = dict(request.overrides)
    if request.become_password is not None:
        overrides |= {"become": True, "become_password": remember(request.become_password)}
    inventory = load(request.inventory, limit=request.limit, overrides=overrides)
    for connection in (host.connection for host in inventory.hosts):
        for secret in (connection.password, connection.become_password):
            if secret is not None:
                remember(secret.get_secret_value())
    return inventory


@contextmanager
def open_run(request: Request) -> Iterator[RunContext]:
    """A run with its run folder and its view; sessions, locks and view end with the block."""
    client, model = _from_bundle(request) if request.bundle else (None, {})
    inventory = read_inventory(replace(request, overrides={**request.overrides, **model}))
    before = unfinished(request.logs)
    command = shlex.join((request.command, *request.arguments[1:]))
    run = RunFolder.create(request.logs, command=command, invocation=request.invocation)
    run.write("inventory.json", inventory)
    with open_progress([host.name for host in inventory.hosts]) as progress, contextlib.ExitStack() as stack:
        context = RunContext(
            run=run,
            inventory=inventory,
            progress=progress,
            cache=cache_folder(),
            command=command,
            refresh=request.refresh,
            client=client,
            stack=stack,
        )
        if before is not None:
            context.first = failed_hosts(request.logs / before)
            run.event("took-up", text=f"run {before} ended without a summary")
        yield context


def _from_bundle(request: Request) -> tuple[ClientSettings, dict[str, str]]:
    """Check a bundle and take its files in: what stage works with then, and its model where that is a folder.

    Raises BundleError, UsageError.
    """
    if request.refresh:
        raise UsageError(
            "`--refresh` asks for newer releases, and `--bundle` asks no network", hint="leave one of the two out"
        )
    from provision.phases.stage import Store  # noqa: PLC0415 - only runs from a bundle pay for it
    from provision.phases.stage.bundle import open_bundle  # noqa: PLC0415 - only runs from a bundle pay for it

    assert request.bundle is not None
    told = partial(report_progress, request.bundle.name)
    opened = open_bundle(request.bundle, Store(cache_folder()), trust=request.trust, progress=told)
    return opened.settings, {"model": opened.model} if opened.model else {}


def execute(request: Request, steps: Sequence[Step]) -> tuple[Summary, Exit]:
    """Run through phases; failures and interruptions are in the summary, which is written in any case."""
    interrupted = False
    with open_run(request) as context:
        context.while_waiting = partial(load_steps, steps)
        with as_interrupt():
            try:
                for phase, step in steps:
                    with context.timed(phase):
                        step(context)
            except KeyboardInterrupt:
                interrupted = True
                interrupt_rest(context, steps)
        summary = finish(context, interrupted=interrupted)
    return summary, exit_code(summary, context.failures)


def interrupt_rest(context: RunContext, steps: Sequence[Step]) -> None:
    """Hosts that were still on their way are marked as interrupted, in the phase where they were."""
    for host in context.hosts():
        done = context.results.get(host.name, {})
        phase = next((name for name, _ in steps if name not in done), None)
        if phase is not None:
            text = "interrupted; the next run takes it up"
            context.record(PhaseResult(host=host.name, phase=phase, status="interrupted", text=text))


def finish(context: RunContext, *, interrupted: bool) -> Summary:
    """Write the summary into the run's folder, and onto each host that was worked on."""
    context.end_beside()
    if context.failures:
        from provision.pipeline.failures import diagnose  # noqa: PLC0415 - only runs that fail pay for it

        diagnose(context)
    summary = summarise(context.run, interrupted=interrupted)
    write_summary(context.run, summary)
    text = context.run.path("summary.txt").read_bytes()
    for host in context.inventory.hosts:
        if host.name in context.locked - context.removed:
            paths = context.install_paths[host.name]
            # A host that is gone by now has its summary here all the same.
            with contextlib.suppress(FirstlightError):
                context.session(host).write(
                    f"{paths.prefix}/logs/summary-{context.run.name}.txt", text, root=paths.root
                )
    return summary


def exit_code(summary: Summary, reasons: set[Exit]) -> Exit:
    """130 interrupted; the one reason that all failures share; else 1 for red, 0 for green and amber."""
    if summary.interrupted:
        return Exit.INTERRUPTED
    if summary.verdict != "red":
        return Exit.OK
    return next(iter(reasons)) if len(reasons) == 1 else Exit.RED


def unfinished(logs: Path) -> str | None:
    """The newest run's name when its process is gone and it left no summary."""
    latest = logs / "latest"
    header = document(latest / "run.json")
    if not header or (latest / "summary.json").exists() or is_at_work(header):
        return None
    return str(header.get("run"))


def failed_hosts(run: Path) -> set[str]:
    """Hosts of an earlier run that did not come to its end."""
    return {
        host
        for host, by_phase in document(run / "phases.json").items()
        if isinstance(by_phase, dict) and "serve" not in by_phase
    }
