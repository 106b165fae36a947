"""`doctor --limit`: reads the evidence of a failure on a live host, and diagnoses it. Nothing is changed there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from provision.core import features
from provision.core.errors import Exit, UsageError
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.core.redaction import redact
from provision.core.run_folder import RunFolder
from provision.phases.probe.failure_evidence import Source
from provision.pipeline import CommandRequest, failure_evidence, repair
from provision.pipeline.commands import print_summary, write_stdout
from provision.pipeline.phases import PROBE_IN_FULL
from provision.pipeline.runner import execute, read_inventory
from provision.report.run_files import results_of
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from provision.run.step import Step
from verify.doctor import render
from verify.doctor.cli import FOUND
from verify.doctor.engine import NO_KNOWN_CAUSE, Diagnosis, diagnose_texts

LOG_BYTES = 1 << 20
"""Bytes of an earlier run's output that are read, from its end."""


@dataclass(frozen=True)
class HostDiagnosis:
    """The evidence of a host, and the causes that the doctor found in it."""

    host: Host
    folder: Path
    sources: tuple[Source, ...]
    diagnosis: Diagnosis
    next_command: str
    """The command that brings the host into the desired state once the cause is removed."""
    earlier_run: str
    """Which earlier run was read, and why."""

    def document(self, *, top: int) -> dict[str, Any]:
        """Return what `--json` prints (docs/reference/doctor.md)."""
        sources = [{"name": source.name, "absent": source.absent} for source in self.sources]
        return {
            **render.to_json(self.host.name, self.diagnosis, top=top),
            "sources": sources,
            "folder": str(self.folder),
        }

    def text(self, *, top: int) -> str:
        """Return the findings, then the sources that were read."""
        read = ", ".join(source.name for source in self.sources if source.absent is None) or "nothing"
        lines = [render.render_text(self.host.name, self.diagnosis, top=top), f"read: {read}; kept in {self.folder}"]
        lines += [
            f"no evidence from {source.name}: {source.absent}" for source in self.sources if source.absent is not None
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class DiagnosedHosts(ProbedHosts):
    """Hosts whose evidence was read."""

    diagnoses: tuple[HostDiagnosis, ...] = ()


def diagnose_host(
    request: CommandRequest,
    *,
    top: int,
    apply: bool,
    agree: Callable[[str], bool],
    exit_code: bool = False,
) -> int:
    """Read one host, name the causes of its failure, print them, and return the exit code.

    Args:
        top: How many findings are printed at most.
        apply: Whether the first cause is removed, where that is safe.
        agree: Asks for consent to a change.
        exit_code: Whether a finding that stays is an exit code of its own.

    Raises:
        UsageError: The name matches several hosts.
    """
    only_host(request)
    step = Step("diagnose", partial(diagnose, request=request), "probe", "all", reads_only=True)
    outcome = execute(request, (PROBE_IN_FULL, step))
    found = outcome.result.diagnoses if isinstance(outcome.result, DiagnosedHosts) else ()
    if not found or outcome.exit_code == Exit.INTERRUPTED:
        return print_summary(outcome)
    [first] = found
    sys.stderr.write(redact(f"{first.host.name}: earlier run: {first.earlier_run}\n"))
    if not request.as_json:
        write_stdout(request.invocation.complete(first.text(top=top)))
    done = repair.repair_host(request, first.host, first.diagnosis.findings, agree) if apply else None
    if request.as_json:
        document = first.document(top=top)
        write_stdout(json.dumps([{**document, "applied": done.document()} if done else document], indent=2))
    elif done:
        write_stdout(done.text() + (f"\nnext: {first.next_command}" if done.gone else ""))
    if not first.diagnosis.findings or (done is not None and done.gone):
        return Exit.OK
    if done is None:
        return FOUND if exit_code else Exit.OK
    return Exit.INTERRUPTED if done.interrupted else Exit.RED


def only_host(request: CommandRequest) -> None:
    """Check that a command has one host.

    Raises:
        UsageError: There are several.
    """
    hosts = read_inventory(request).hosts
    if len(hosts) != 1:
        raise UsageError(
            f"--limit {request.limit} names {len(hosts)} hosts: {', '.join(host.name for host in hosts)}",
            hint="name one of them",
        )


def diagnose(context: RunContext, probed: ProbedHosts, *, request: CommandRequest) -> DiagnosedHosts:
    """Read the evidence of each host, and diagnose it with the facts of the probe."""
    diagnoses = []
    gathered, failed = failure_evidence.gather(context, probed, context.hosts())
    for name, error in failed.items():
        context.fail(name, "probe", error)
    for name, answer in gathered.items():
        before = earlier(request.logs, name)
        own = (before.source, stopped_processes(probed.facts[name]))
        sources = (*(failure_evidence.keep(context, name, source) for source in own), *answer)
        facts = probed.facts[name].model_dump(mode="json")
        diagnosis = diagnose_texts({source.name: source.text for source in sources if source.text}, facts)
        next_command = request.invocation.suggest("provision", hosts=name)
        diagnosis = with_service(diagnosis, probed.facts[name], next_command)
        context.run.write(f"evidence/{name}.json", render.to_json(name, diagnosis, top=len(diagnosis.findings) or 1))
        folder = context.run.path(f"evidence/{name}")
        diagnoses.append(HostDiagnosis(context.host(name), folder, sources, diagnosis, next_command, before.choice))
    return DiagnosedHosts(**vars(probed), diagnoses=tuple(diagnoses))


def stopped_processes(facts: HostFacts) -> Source:
    """Return what the probe saw of processes of the service that a signal stopped, which no log says."""
    drift = facts.installed.drift if facts.installed else ()
    lines = [f"{one.path} {one.text}\n" for one in drift if one.kind == "process"]
    return Source("processes", "".join(lines), None if lines else "no process of the service is stopped")


def with_service(diagnosis: Diagnosis, facts: HostFacts, next_command: str) -> Diagnosis:
    """Advise to start a service that is stopped without a finding: stopped in order, it leaves no sign of a failure."""
    if diagnosis.findings or facts.installed is None or facts.installed.service != "inactive":
        return diagnosis
    text = (
        f"The service is stopped, and nothing shows that it failed: somebody stopped it. To serve again: {next_command}"
    )
    return replace(diagnosis, look_next=(text, *(advice for advice in diagnosis.look_next if advice != NO_KNOWN_CAUSE)))


@dataclass(frozen=True)
class EarlierRun:
    """What an earlier run of this controller says of a failure of a host."""

    source: Source
    choice: str
    """Which run that is and why, as a part of a sentence."""


def earlier(logs: Path, host: str) -> EarlierRun:
    """Return the texts of the newest run that worked on a host, where it failed there.

    A run of a rollout that is not done may have taken the host back, and is sound then: the run of that rollout which failed on the
    host is read instead, or the decision of the gate.
    """
    newest = _worked_on(logs, host)
    if newest is None:
        return EarlierRun(Source("last_run", "", "no earlier run worked on it"), "none worked on this host")
    run, results = newest
    failed = failure_evidence.failed_results(results)
    if failed:
        return EarlierRun(source_of_run(run, failed), f"run {run.name}, the newest that worked on it")
    sound = f"run {run.name} did not fail there"
    found: EarlierRun | None = features.first("earlier_failure", logs, host, run.name)
    return found or EarlierRun(Source("last_run", "", sound), f"none, as {sound}")


def _worked_on(logs: Path, host: str) -> tuple[Path, dict[str, PhaseResult]] | None:
    """Return the newest run that changed a host or was to, with how each phase ended there."""
    runs = (path.parent for path in logs.glob("*/phases.json") if path.parent.name != "latest")
    for run in sorted(runs, reverse=True):
        results = results_of(RunFolder(run)).get(host, {})
        if {"install", "serve", "stage"} & set(results):
            return run, results
    return None


def source_of_run(run: Path, failed: Sequence[PhaseResult]) -> Source:
    """Return what a run that failed has printed."""
    lines = [line for result in failed for line in (result.text, *result.evidence) if line]
    output = run / "install" / "ansible.log"
    if "install" in {result.phase for result in failed} and output.exists():
        with output.open("rb") as file:
            file.seek(max(output.stat().st_size - LOG_BYTES, 0))
            lines.append(file.read().decode(errors="replace").rstrip())
    return Source("last_run", "\n".join(lines) + "\n")
