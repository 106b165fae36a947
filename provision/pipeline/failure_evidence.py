"""Logs and states of hosts that may explain a failure, kept in the run's folder without secrets, and the known causes in them."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from provision.catalog.load import catalog
from provision.core.files import write_atomically
from provision.core.install_paths import unit_of
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import Finding, PhaseResult
from provision.core.redaction import redact
from provision.fleet.inventory.addresses import own_address, with_port
from provision.phases.probe.failure_evidence import Source, collect
from provision.run.context import RunContext
from provision.run.desired_state import packages_by_need
from provision.run.results import ProbedHosts
from provision.run.rollback import readiness_of
from verify.doctor import render
from verify.doctor.catalog import Cause, load_causes
from verify.doctor.engine import diagnose_texts
from verify.doctor.scoring import LIKELY_AT

DEADLINE_S = 120.0
ON_HOST = frozenset({"install", "verify", "serve"})
"""Phases that work on the host: its logs show more than the phase's result."""
OWN_TEXTS = frozenset({"probe", "plan"})
"""Phases whose texts quote no other program."""


def gather(
    context: RunContext, probed: ProbedHosts, hosts: Sequence[Host], *, since: Mapping[str, float] | None = None
) -> tuple[dict[str, tuple[Source, ...]], dict[str, BaseException]]:
    """Read the logs and states of hosts that may explain a failure. Nothing is changed on them.

    Return the sources of each host that answered, and the error of each other host. `since` has for each host the seconds from the start
    of the run; older lines of the service's log are left out.
    """

    def call(host: Host) -> tuple[Source, ...]:
        paths = probed.install_paths[host.name]
        since_s = context.run.seconds - since[host.name] if since is not None else None
        return collect(
            context.session(host), prefix=paths.prefix, root=paths.root, service=paths.service, since_s=since_s
        )

    started = time.monotonic()
    done = context.ask_hosts(hosts, call, deadline_s=DEADLINE_S)
    context.run.event("evidence", seconds=round(time.monotonic() - started, 3), hosts=sorted(done.values))
    gathered = {name: tuple(keep(context, name, source) for source in sources) for name, sources in done.values.items()}
    return gathered, done.errors


def keep(context: RunContext, host: str, source: Source) -> Source:
    """Write a source to the run's folder, and return it without secrets, as it was written."""
    kept = Source(source.name, redact(source.text), source.absent)
    if kept.absent is None:
        write_atomically(context.run.path(f"evidence/{host}/{kept.name}.txt"), kept.text)
    return kept


def diagnose(context: RunContext, probed: ProbedHosts) -> None:
    """Match the logs of failed hosts against known causes, and write the findings to the run's folder."""
    failed = {name: failed_results(results) for name, results in context.outcomes.results.items()}
    # Log lines from before the failed phase belong to an earlier start of the service.
    begun = {
        name: min(context.outcomes.entered.get(result.phase, 0.0) for result in results if result.phase in ON_HOST)
        for name, results in failed.items()
        if ON_HOST & {result.phase for result in results}
    }
    asked = [context.host(name) for name in begun]
    sources_of: dict[str, tuple[Source, ...]] = {}
    with contextlib.suppress(KeyboardInterrupt):  # after a second Ctrl-C the texts of the phases have to do
        sources_of, _ = gather(context, probed, asked, since=begun) if asked else (sources_of, {})
    for name, bad in failed.items():
        fixes = partial(_fixes, host=context.host(name), probed=probed)
        known = tuple(named(one.cause, f"{one.phase}: {one.text}", fixes) for one in bad if one.cause)
        # The texts of plan and probe are our own; where they know the cause, the result names it.
        results = [result for result in bad if not result.cause and result.phase not in OWN_TEXTS]
        # The phase's own text comes first: journals may hold older failures too.
        texts: dict[str, str] = {result.phase: "\n".join((result.text or "", *result.evidence)) for result in results}
        sources = {source.name: source.text for source in sources_of.get(name, ()) if source.text}
        findings = causes_of({**texts, **sources}, probed.facts.get(name), fixes) if texts else ()
        if known or findings:
            context.run.write(f"findings/{name}.json", [finding.model_dump() for finding in (*known, *findings)])


def failed_results(results: Mapping[Any, PhaseResult]) -> list[PhaseResult]:
    """Return the results of phases that failed."""
    return [result for result in results.values() if result.status == "failed"]


def packages(tag: str, facts: HostFacts) -> list[str]:
    """Return the names of a system package in the host's distribution; none for other tags."""
    if tag not in {need.name for need in catalog().system_needs}:
        return []
    python = next((found.version for found in facts.pythons if found.version), "3")
    return [*packages_by_need([tag], facts, python=python)]


def on_host(cause: Cause, host: Host, probed: ProbedHosts) -> Cause:
    """Return a cause with the commands of a host: the catalog's are for root's only service, its default address, and apt."""
    facts, paths = probed.facts[host.name], probed.install_paths[host.name]
    manager = facts.os.package_manager or "apt"
    served = readiness_of((facts.installed.state if facts.installed else None) or {})
    bind, port = (served["host"], served["port"]) if served else (host.settings.bind, host.settings.port)
    own = {
        "firstlight-vllm": paths.unit.removesuffix(".service"),
        "firstlight-health-agent.service": unit_of(paths.service, "firstlight-health-agent.service"),
        "127.0.0.1:8000": with_port(own_address(bind), port),
    }

    def fitted(command: str, tag: str = "") -> str:
        if manager in catalog().install_commands and (names := packages(tag, facts)):
            return " ".join((catalog().install_commands[manager].install, *names))
        if "apt-get" in command and manager != "apt":
            return ""
        if "firstlight-vllm" in command and not paths.root:
            command = command.replace("sudo systemctl", "systemctl --user").replace("journalctl", "journalctl --user")
        for name, here in own.items():
            command = command.replace(name, here)
        return command

    fixes = tuple(replace(fix, command=fitted(fix.command, fix.tag)) for fix in cause.fixes)
    return replace(cause, fixes=fixes, check=replace(cause.check, command=fitted(cause.check.command)))


def causes_of(
    texts: Mapping[str, str], facts: HostFacts | None = None, fixes: Callable[[Cause], tuple[str, ...]] | None = None
) -> tuple[Finding, ...]:
    """Match log texts, by the name of a file or a phase, against known causes; the oldest text comes first.

    Causes are never guessed from single words, because a summary must only report what log lines show. Return the findings, most likely
    first; none when no cause is sufficiently likely.
    """
    known = facts.model_dump(mode="json") if facts else None
    findings = diagnose_texts(texts, known, guess=False).findings
    if not findings or findings[0].confidence < LIKELY_AT:
        return ()
    return tuple(
        Finding(
            cause=found.cause.id,
            confidence=found.confidence,
            evidence=tuple(f"{hit.file}:{hit.line}: {hit.text.strip()}" for hit, _ in render.evidence_lines(found)),
            fix=(fixes or _fixes)(found.cause),
        )
        for found in findings
    )


def named(cause: str, text: str, fixes: Callable[[Cause], tuple[str, ...]]) -> Finding:
    """Return the finding for a cause that the failing code named itself; `text` becomes its evidence."""
    known = next(each for each in load_causes() if each.id == cause)
    return Finding(cause=cause, confidence=1.0, evidence=(text.splitlines()[0],), fix=fixes(known))


def _fixes(cause: Cause, host: Host | None = None, probed: ProbedHosts | None = None) -> tuple[str, ...]:
    if host and probed and host.name in probed.facts:
        cause = on_host(cause, host, probed)
    return tuple(f"{fix.text}: {fix.command}" if fix.command else fix.text for fix in cause.fixes)
