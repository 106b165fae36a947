"""The phase `verify`: checks of new and of live environments, and comparisons of hosts."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from provision.core import features
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import CheckRecord, PhaseResult
from provision.phases.install.step import building
from provision.phases.plan.cards import server_of
from provision.phases.stage.image import image_id
from provision.phases.stage.step import recompute_desired
from provision.phases.verify.expected_gpus import expected_advisories, expected_gpus
from provision.phases.verify.run_checks import DRAIN_S, CheckOptions, Verified, container_command, resume
from provision.phases.verify.run_checks import verify as run_checks
from provision.report.difference import last_green
from provision.report.run_files import HOST_COMPARISON_FILE, own_verification
from provision.report.wording import verified_line
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.desired_state import Desired
from provision.run.results import CheckedHosts, ProbedHosts, StagedHosts, VerifiedHosts
from verify.host.comparison import compare
from verify.records import BURN_IN, FRAME, SERVING, Level, first_few
from verify.runner.last_run import failed_levels

SHOWN_FOREIGN = 5
REMOVE = "find its owner and take it away; a run leaves what it did not make"
ANSWER_S = 60.0
"""Seconds for an answer to arrive, in addition to the time limit of the checks."""


def verify(context: RunContext, staged: StagedHosts) -> VerifiedHosts:
    """Check each new environment before it goes live; where nothing changed, the last checks stay valid and are compared too, and what the probe saw is named."""
    for host in context.hosts():
        if host.name in staged.up_to_date | staged.restart_only:
            facts = staged.facts[host.name]
            last = facts.installed.last_verify if facts.installed else None
            what = "nothing" if host.name in staged.up_to_date else "only the start of its service"
            text = f"{what} changed since it was {verified_line(last, facts.probed_at)}"
            result = PhaseResult(host=host.name, phase="verify", status="skipped", text=text)
            if foreign := facts.installed.foreign if facts.installed else ():
                named = {"text": f"{first_few(foreign, SHOWN_FOREIGN)}; {text}", "hint": REMOVE}
                result = result.model_copy(update={"status": "warn", **named})
            context.record(result)
            if last and (checks := own_verification(last).checks):
                own = {"host": host.name, "checks": [check.model_dump() for check in checks]}
                context.outcomes.checks[host.name] = {**last, **own}
    hosts = building(context, staged)
    documents, _ = check(context, staged, hosts, CheckOptions("standard", serve_follows=True), desired=staged.desired)
    desired = {name: recompute_desired(context, staged, name, document) for name, document in documents.items()}
    return VerifiedHosts(**{**vars(staged), "desired": {**staged.desired, **desired}}, documents=documents)


def verify_live(
    context: RunContext, probed: ProbedHosts, options: CheckOptions, *, names: frozenset[str] | None = None
) -> CheckedHosts:
    """Check what is live on each host, or on those of some names. With `drain` each service is started again, whatever happens.

    Raises:
        KeyboardInterrupt: The run was interrupted; drained services are running again.
    """
    hosts = [host for host in context.hosts() if names is None or host.name in names]
    if not options.drain:
        return _checked(context, probed, hosts, options)
    hosts = playbooks.acquire_locks(context, probed, "verify", hosts)
    try:
        return _checked(context, probed, hosts, options)
    except KeyboardInterrupt:
        resume_services(context, probed, hosts)
        raise
    finally:
        for host in hosts:
            path = f"{probed.install_paths[host.name].prefix}/verify/drained.json"
            context.run.change("drain", host=host.name, path=path, changed=True)


def _checked(context: RunContext, probed: ProbedHosts, hosts: Sequence[Host], options: CheckOptions) -> CheckedHosts:
    documents, aggregate = check(context, probed, hosts, options)
    around = _check_around(context, probed) if options.multihost else ()
    return CheckedHosts(**vars(probed), documents=documents, aggregate=aggregate, around=around)


def _check_around(context: RunContext, probed: ProbedHosts) -> tuple[CheckRecord, ...]:
    """Check what stands around hosts; a failure there is one of its host."""
    records = [record for checked in features.hooks("checked_around") for record in checked(context, probed)]
    for record in records:
        result = worst_result(record.host, [record], record.seconds)
        if result.has_failed or "verify" not in context.outcomes.results.get(record.host, {}):
            context.record(result)
    return tuple(records)


def check(
    context: RunContext,
    probed: ProbedHosts,
    hosts: Sequence[Host],
    options: CheckOptions,
    *,
    desired: Mapping[str, Desired] | None = None,
) -> tuple[dict[str, Mapping[str, Any]], tuple[CheckRecord, ...]]:
    """Run the checks on all hosts in parallel, and compare the hosts.

    Args:
        desired: The desired states whose environments are checked; without them, and with `refute`, what is live is checked.

    Returns:
        The document of each host, and the checks that compare hosts.
    """
    started = time.monotonic()
    desired = desired or {}
    expectations = expected(context, probed, hosts, desired)
    if options.serve_follows:
        expectations = {name: {**expect, "serve_follows": True} for name, expect in expectations.items()}
    # A check that failed at a deeper level runs at that level again.
    deeper = options.serve_follows and any(failed_checks(probed, host.name) for host in hosts)
    devices = max((device_count(probed.facts.get(host.name)) for host in hosts), default=1)

    def call(host: Host) -> Verified:
        paths, state = probed.install_paths[host.name], desired.get(host.name)
        facts, image = probed.facts.get(host.name), images.get(host.name)
        verified = run_checks(
            context.session(host),
            prefix=paths.prefix,
            options=options,
            environment=state.environment if state and not options.refute else None,
            devices=device_count(facts),
            expect=expectations.get(host.name),
            root=paths.root,
            progress=partial(context.progress.current, host.name) if context.progress.shows_current else None,
            container=container_command(paths.prefix, image, facts) if image else None,
        )
        # At once: what it says must be kept even if the run ends while other hosts are still at work.
        features.call("host_checked", context, probed, host, verified.document)
        return verified

    documents: dict[str, Mapping[str, Any]] = {}
    images = _images(probed, hosts, desired, options)
    limit_s = options.time_limit_s(devices, level="full" if deeper else None) + ANSWER_S
    limit_s += options.time_limit_s(devices) * bool(images)
    lasts = options.level == BURN_IN or options.soak_minutes is not None
    answers = context.run_on_hosts("verify", hosts, call, deadline_s=limit_s, lasts=lasts)
    for hosts_checked in features.hooks("hosts_checked") if hosts else ():
        answers = hosts_checked(context, probed, answers, options)
    for name, verified in answers.items():
        documents[name] = verified.document
        context.run.write(f"verify/{name}.json", verified.document)
        if options.is_complete and not any(check.id == FRAME for check in verified.checks):
            path = f"{probed.install_paths[name].prefix}/verify/last.json"
            context.run.change(
                "checks", host=name, path=path, changed=True, level=options.level, exit_code=verified.exit_code
            )
        context.record(_result(context, name, verified, options, time.monotonic() - started))
    if options.refute:
        return documents, ()
    context.outcomes.checks |= documents
    aggregate = compare(list(context.outcomes.checks.values()))
    # Services of one machine have the same GPUs and interfaces.
    able = [host for host in hosts if documents.get(host.name, {}).get("torch")]
    with_torch = [*{host.machine: host for host in able}.values()]
    if options.multihost and len(with_torch) > 1:
        aggregate += [one(context, probed, with_torch, desired) for one in features.hooks("try_together")]
    if aggregate:
        context.run.write(HOST_COMPARISON_FILE, {"checks": aggregate})
    return documents, tuple(CheckRecord.model_validate(record) for record in aggregate)


def _images(
    probed: ProbedHosts, hosts: Sequence[Host], desired: Mapping[str, Desired], options: CheckOptions
) -> dict[str, str]:
    """Return the images of hosts whose service runs, or is to run, in a container; none where it is not to be checked there."""
    found: dict[str, str] = {}
    if not options.is_complete or options.level == BURN_IN:
        return found
    for host in hosts:
        facts, state = probed.facts.get(host.name), desired.get(host.name)
        planned = image_id(state.image) if state and state.image else None
        live = facts.installed.image if facts and facts.installed else None
        if facts and (image := planned if state else live):
            found[host.name] = image
    return found


def _result(context: RunContext, name: str, verified: Verified, options: CheckOptions, seconds: float) -> PhaseResult:
    """Return the result of a host's checks; where they leave it out of later runs, it says so."""
    decisive = [check for check in verified.checks if not (options.serve_follows and check.family == SERVING)]
    result, out = worst_result(name, decisive, seconds), context.outcomes.left_out.get(name)
    if out is None:
        return result
    hint = "; ".join(filter(None, (result.hint, out.hint)))
    return result.model_copy(update={"notes": (*result.notes, out.reason), "hint": hint})


def failed_checks(
    probed: ProbedHosts, name: str, documents: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Level]:
    """Return the checks that failed last on a host, each with its deepest level.

    Args:
        documents: Checks of this run, which replace those that the probe found.
    """
    facts = probed.facts.get(name)
    installed = facts.installed if facts else None
    return failed_levels((documents or {}).get(name) or (installed.last_verify if installed else None) or {})


def check_again(context: RunContext, verified: VerifiedHosts, names: Sequence[str]) -> None:
    """Run the checks of the service again that failed before, on hosts whose service was restarted and proven."""
    hosts = [
        context.host(name)
        for name in names
        if any(id_.startswith(f"{SERVING}.") for id_ in failed_checks(verified, name, verified.documents))
    ]
    for host in hosts:
        context.progress.note(host.name, "checks again what failed")
    check(context, verified, hosts, CheckOptions("full", refute=True), desired=verified.desired)


def expected(
    context: RunContext, probed: ProbedHosts, hosts: Sequence[Host], desired: Mapping[str, Desired]
) -> dict[str, dict[str, Any]]:
    """Return what the checks of each host compare with: its Stack, where this run has one, advisories, its expected GPUs, and the kind of container that it is."""
    found: dict[str, dict[str, Any]] = {}
    with_cards = set()
    for host in hosts:
        stack = desired[host.name].stack if host.name in desired else None
        facts = probed.facts.get(host.name)
        named = ({"stack": stack} if stack else {}) | {"container": facts and facts.container}
        found[host.name] = {**named, "advisories": expected_advisories(host.settings, stack)}
        is_planned = stack and stack["torch"]["variant"] != "cpu"
        if facts and (facts.pci_gpus or server_of(facts) or is_planned or host.settings.expected_gpus):
            with_cards.add(host.name)
    before = last_green(context.run.folder.parent, context.run.name, with_cards) if with_cards else {}
    for name in with_cards:
        then, stack = before.get(name), found[name].get("stack")
        known = then.stack.torch.variant if then and then.stack else "cu" if probed.facts[name].nvidia else "cpu"
        variant = stack["torch"]["variant"] if stack else known
        last = (then.facts, then.run) if then else (None, None)
        if gpus := expected_gpus(probed.facts[name], context.host(name).settings, variant, *last):
            found[name]["gpus"] = gpus
    return found


def device_count(facts: HostFacts | None) -> int:
    """Return how many devices the checks find on a host at most: its GPUs, or 1 for its CPUs."""
    if facts is None:
        return 1
    drivers = [vendor.gpus for vendor in (facts.nvidia, facts.amd) if vendor]
    return max(1, len(facts.pci_gpus), sum(map(len, drivers)))


def resume_services(context: RunContext, probed: ProbedHosts, hosts: Sequence[Host]) -> None:
    """Start each service that an interruption left stopped, and check that it answers."""

    def call(host: Host) -> tuple[bool, str]:
        paths = probed.install_paths[host.name]
        context.progress.note(host.name, "interrupted: starting the service again")
        return resume(context.session(host), prefix=paths.prefix, root=paths.root)

    for name, (is_back, text) in context.run_on_hosts("verify", hosts, call, deadline_s=DRAIN_S).items():
        context.run.event("resumed", host=name, phase="verify", text=text)
        if not is_back:
            result = PhaseResult(host=name, phase="verify", status="failed", text=text, hint="./firstlight serve")
            context.reject(result)


def worst_result(name: str, checks: Sequence[CheckRecord], seconds: float) -> PhaseResult:
    """Return the phase result of a host: that of its worst check."""
    order = ("error", "fail", "warn")
    worst = next((check for status in order for check in checks if check.status == status), None)
    if worst is None:
        return PhaseResult(host=name, phase="verify", status="ok", seconds=round(seconds, 3))
    return PhaseResult(
        host=name,
        phase="verify",
        status="warn" if worst.status == "warn" else "failed",
        seconds=round(seconds, 3),
        text=f"check `{worst.id}`: {worst.reason}",
        hint=worst.remedy,
    )
