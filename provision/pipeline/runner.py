"""Runs steps in their order; whatever happens, there is a summary at the end."""

import contextlib
import itertools
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from provision.catalog.index.settings import ClientSettings
from provision.core import features
from provision.core.errors import Exit, FirstlightError, UsageError
from provision.core.folders import cache_folder
from provision.core.models.inventory import GATEWAY, Host, Inventory
from provision.core.models.records import PHASES, PhaseName, PhaseResult, Summary
from provision.core.redaction import register_secret
from provision.core.run_folder import QUERIES, RunFolder, is_query
from provision.fleet.inventory import load
from provision.pipeline import Batching, CommandRequest
from provision.pipeline.failure_evidence import diagnose
from provision.pipeline.host_summary import write_on_hosts
from provision.report import summarise
from provision.report import write as write_summary
from provision.report.history.retention import KEEP_QUERIES, prune_quietly
from provision.report.live import open_progress
from provision.run import background
from provision.run.context import RunContext, RunOptions
from provision.run.playbooks import write_inventory
from provision.run.results import PlannedHosts, ProbedHosts, combined
from provision.run.step import Step
from verify.runner.execution import FAILED


def read_inventory(request: CommandRequest) -> Inventory:
    """Return the hosts of a command, with its options applied.

    Raises:
        InventoryError: The inventory cannot be used.
        UsageError: An option cannot be used.
    """
    overrides = dict(request.overrides)
    if request.become_password is not None:
        overrides["become_password"] = register_secret(request.become_password)
    inventory = load(request.inventory, limit=request.limit, overrides=overrides)
    for host in inventory.hosts:
        for secret in (host.connection.password, host.connection.become_password):
            if secret is not None:
                register_secret(secret.get_secret_value())
    return inventory


@contextmanager
def open_run(
    request: CommandRequest, *, titles: Mapping[PhaseName, str] | None = None, is_query: bool = False
) -> Iterator[RunContext]:
    """Open a run: its folder and its progress view. Sessions, locks and the view end with the block.

    Args:
        titles: What the progress view calls the phases.
        is_query: Whether it only reads hosts; it then leaves the runs as they are.

    Raises:
        BundleError: The bundle cannot be used.
        InventoryError: The inventory cannot be used.
        UsageError: An option cannot be used.
    """
    client: ClientSettings | None = None
    if request.bundle is not None:
        if (found := features.first("open_bundle", request)) is None:
            raise UsageError("no feature of this copy of the product reads bundles", hint="leave --bundle out")
        client, overrides = found
        request = replace(request, overrides={**request.overrides, **overrides})
    inventory = read_inventory(request)
    command = shlex.join((request.command, *request.arguments[1:]))
    with contextlib.ExitStack() as stack:
        run = RunFolder.create(request.logs, command=command, invocation=request.invocation, is_query=is_query)
        run.write("inventory.json", inventory)
        names = [host.name for host in inventory.hosts]
        progress = stack.enter_context(open_progress(names, titles=titles, verbose=request.verbose))
        progress.complete = request.invocation.complete
        yield RunContext(
            run=run,
            inventory=inventory,
            progress=progress,
            cache=cache_folder(),
            options=RunOptions(
                command=command,
                limited=request.limit is not None,
                find_gateways=partial(hosts_of_group, request, inventory, GATEWAY),
                refresh=request.refresh,
                client=client,
            ),
            stack=stack,
        )


def hosts_of_group(request: CommandRequest, inventory: Inventory, group: str) -> list[Host]:
    """Return the hosts of a group of the inventory, also those that `--limit` left out; none where they cannot be read."""
    if request.limit is None:
        return [host for host in inventory.hosts if group in host.groups]
    try:
        return [*read_inventory(replace(request, limit=group)).hosts]
    except FirstlightError:  # no such group, or a wrong setting, which ./firstlight gateway names
        return []


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended."""

    summary: Summary
    exit_code: Exit
    result: ProbedHosts
    """The result of the last phase that came to its end."""
    hosts: tuple[Host, ...]
    texts: Mapping[str, str]
    """The summary by the name of its file in the run's folder."""
    as_json: bool = False
    """Whether one JSON document is printed."""


def execute(request: CommandRequest, steps: Sequence[Step]) -> RunOutcome:
    """Run steps, each with the result of the one before it.

    Whatever happens, the summary is written: failures and interruptions are in it. Old queries are removed after a query.

    Raises:
        InventoryError: The inventory cannot be used.
        UsageError: An option cannot be used.
    """
    interrupted, query = False, all(step.reads_only for step in steps)
    with open_run(request, titles=_titles(steps), is_query=query) as context:
        with as_interrupt():
            try:
                if request.batching is None or not any(step.in_batches for step in steps):
                    run_in_order(context, steps)
                else:
                    run_batches(context, steps, request.batching)
            except KeyboardInterrupt:
                interrupted = True
                record_interruption(context, steps)
        summary, texts = finish(context, interrupted=interrupted)
        hosts = tuple(context.inventory.hosts)
    if query:
        prune_quietly(request.logs / QUERIES, keep=KEEP_QUERIES)
    code = exit_code(summary, context.outcomes.failures)
    return RunOutcome(summary, code, context.result, hosts, texts, request.as_json)


def _titles(steps: Sequence[Step]) -> dict[PhaseName, str]:
    """Return what the phases of some steps are called: one without a step of its own by the first, as `uninstall` of `install`."""
    named = {phase: [step.name for step in steps if step.phase == phase] for phase in PHASES}
    return {phase: phase if phase in names else names[0] for phase, names in named.items() if names}


def run_in_order(context: RunContext, steps: Sequence[Step]) -> None:
    """Run steps, each with the result of the one before it. What `install` waits for begins with `stage`, in the background."""
    installs = "install" in {step.name for step in steps}
    for step in steps:
        context.scope = step.scope
        with context.timed(step.phase):
            if step.name == "stage" and installs:
                assert isinstance(context.result, PlannedHosts), "stage comes after the plan"
                background.start(context, context.result)
            if step.applies(context):
                context.result = step.run(context, context.result)


def run_batches(context: RunContext, steps: Sequence[Step], batching: Batching) -> None:
    """Run the steps that change hosts for one batch after the other, until too many hosts have failed; the others once for all."""
    own = [step for step in steps if step.in_batches]
    run_in_order(context, steps[: steps.index(own[0])])
    context.scope = "provisioned"
    names = [host.name for host in context.hosts()]
    batches = list(batching.split(context.hosts())) or [[]]
    results: list[PlannedHosts] = []
    for number, batch in enumerate(batches, 1):
        failed = [name for name in names if context.has_failed(name)]
        if (refusal := batching.refusal(failed, len(names))) is not None:
            for name in itertools.chain(*batches[number - 1 :]):
                context.record(PhaseResult(host=name, phase="stage", status="interrupted", text=refusal))
            break
        context.run.event("batch", number=number, of=len(batches), hosts=batch)
        context.begin_batch(batch)
        run_in_order(context, own)
        assert isinstance(context.result, PlannedHosts), "batches begin after the plan"
        results.append(context.result)
        context.result = combined(results).as_planned()
    context.batch, context.result = None, combined(results)
    run_in_order(context, steps[steps.index(own[-1]) + 1 :])


def record_interruption(context: RunContext, steps: Sequence[Step]) -> None:
    """Record hosts that had not come to the end as interrupted, in the phase where they were."""
    context.scope, context.batch = "all", None
    for host in context.hosts():
        done = context.outcomes.results.get(host.name, {})
        own = [step for step in steps if step.scope == "all" or host.is_provisioned]
        phase = next((step.phase for step in own if step.phase not in done), None)
        if phase is not None:
            text = "interrupted before the end"
            context.record(PhaseResult(host=host.name, phase=phase, status="interrupted", text=text))


def finish(context: RunContext, *, interrupted: bool) -> tuple[Summary, Mapping[str, str]]:
    """Write the summary into the run's folder, and onto each host that was changed.

    Returns:
        The summary, and its texts by file name.
    """
    context.background.stop()
    context.write_results()
    if context.outcomes.failures:
        diagnose(context, context.result)
    summary = summarise(context.run, interrupted=interrupted)
    texts = write_summary(context.run, summary)
    if not is_query(context.run.name):
        write_inventory(context)
    if there := context.sessions.locks.keys() - context.outcomes.removed:
        write_on_hosts(context, summary, there)
    return summary, texts


def exit_code(summary: Summary, reasons: set[Exit]) -> Exit:
    """Return 130 when interrupted, 0 for green and amber, else the one code that all failures share, or 1, also where a check failed."""
    if summary.interrupted:
        return Exit.INTERRUPTED
    if summary.verdict != "red":
        return Exit.OK
    checks = list(summary.host_comparison)
    for host in summary.hosts:  # one that failed in another phase has its reason
        if not any(result.has_failed for result in host.phases.values() if result.phase != "verify"):
            checks += host.checks
    is_one = len(reasons) == 1 and not any(check.status in FAILED for check in checks)
    return next(iter(reasons)) if is_one else Exit.RED


@contextmanager
def as_interrupt() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread, as Ctrl-C does, unless `nohup` or others ignore them."""
    ended = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in ended}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
