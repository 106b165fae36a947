"""`doctor --host`: reads the evidence of a failure on a live host, and diagnoses it. Nothing is changed there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from provision.core.errors import Exit, UsageError
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.run_folder import RunFolder
from provision.phases.probe import Source
from provision.pipeline import CommandRequest, failure_evidence, repair
from provision.pipeline.commands import print_summary, write_stdout
from provision.pipeline.context import RunContext
from provision.pipeline.phases import PROBE, Step
from provision.pipeline.results import ProbedHosts
from provision.pipeline.runner import execute, read_inventory
from provision.report.run_files import results_of
from verify.doctor import render
from verify.doctor.cli import FOUND, UNKNOWN
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
        lines += [f"not read: {source.name}: {source.absent}" for source in self.sources if source.absent is not None]
        return "\n".join(lines)


@dataclass(frozen=True)
class DiagnosedHosts(ProbedHosts):
    """Hosts whose evidence was read."""

    diagnoses: tuple[HostDiagnosis, ...] = ()


def diagnose_host(
    request: CommandRequest, *, top: int, as_json: bool, apply: bool, agree: Callable[[str], bool]
) -> int:
    """Read one host, name the causes of its failure, and print them.

    Args:
        request: The command.
        top: How many findings are printed at most.
        as_json: Whether one JSON document is printed.
        apply: Whether the first cause is removed, where that is safe.
        agree: Asks for consent to a change.

    Returns:
        The exit code.

    Raises:
        UsageError: The name matches several hosts.
    """
    only_host(request)
    outcome = execute(request, (PROBE, Step("diagnose", partial(diagnose, request=request), "probe", "all")))
    found = outcome.result.diagnoses if isinstance(outcome.result, DiagnosedHosts) else ()
    if not found or outcome.exit_code == Exit.INTERRUPTED:
        print_summary(outcome, as_json=as_json)
        return outcome.exit_code
    [first] = found
    if not as_json:
        write_stdout(request.invocation.complete(first.text(top=top)))
    done = repair.repair_host(request, first.host, first.diagnosis.findings, agree) if apply else None
    if as_json:
        document = first.document(top=top)
        write_stdout(json.dumps([{**document, "applied": done.document()} if done else document], indent=2))
    elif done:
        write_stdout(done.text() + (f"\nnext: {first.next_command}" if done.gone else ""))
    if not first.diagnosis.findings:
        return UNKNOWN
    if done is None or done.gone:
        return FOUND
    return Exit.INTERRUPTED if done.interrupted else Exit.RED


def only_host(request: CommandRequest) -> Host:
    """Return the one host of a command.

    Raises:
        UsageError: There are several.
    """
    hosts = read_inventory(request).hosts
    if len(hosts) != 1:
        raise UsageError(
            f"--host {request.limit} names {len(hosts)} hosts: {', '.join(host.name for host in hosts)}",
            hint="name one of them",
        )
    return hosts[0]


def diagnose(context: RunContext, probed: ProbedHosts, *, request: CommandRequest) -> DiagnosedHosts:
    """Read the evidence of each host, and diagnose it with the facts of the probe."""
    diagnoses = []
    gathered, failed = failure_evidence.gather(context, probed, context.hosts())
    for name, error in failed.items():
        context.fail(name, "probe", error)
    for name, answer in gathered.items():
        sources = (failure_evidence.keep(context, name, earlier(request.logs, name)), *answer)
        facts = probed.facts[name].model_dump(mode="json")
        diagnosis = diagnose_texts({source.name: source.text for source in sources if source.text}, facts)
        next_command = request.invocation.suggest("provision", hosts=name)
        diagnosis = with_service(diagnosis, probed.facts[name], next_command)
        context.run.write(f"evidence/{name}.json", render.to_json(name, diagnosis, top=len(diagnosis.findings) or 1))
        folder = context.run.path(f"evidence/{name}")
        diagnoses.append(HostDiagnosis(context.host(name), folder, sources, diagnosis, next_command))
    return DiagnosedHosts(**vars(probed), diagnoses=tuple(diagnoses))


def with_service(diagnosis: Diagnosis, facts: HostFacts, next_command: str) -> Diagnosis:
    """Advise to start a service that is stopped without a finding: stopped in order, it leaves no sign of a failure."""
    if diagnosis.findings or facts.installed is None or facts.installed.service != "inactive":
        return diagnosis
    text = (
        f"The service is stopped, and nothing shows that it failed: somebody stopped it. To serve again: {next_command}"
    )
    return replace(diagnosis, look_next=(text, *(advice for advice in diagnosis.look_next if advice != NO_KNOWN_CAUSE)))


def earlier(logs: Path, host: str) -> Source:
    """Return the texts of the newest run that changed a host, where it failed there."""
    for run in sorted(
        (path.parent for path in logs.glob("*/phases.json") if path.parent.name != "latest"), reverse=True
    ):
        results = results_of(RunFolder(run)).get(host, {})
        if not {"install", "serve", "stage"} & set(results):
            continue
        failed = [result for result in results.values() if result.status == "failed"]
        if not failed:
            return Source("last_run", "", f"run {run.name} did not fail there")
        lines = [line for result in failed for line in (result.text, *result.evidence) if line]
        output = run / "install" / "ansible.log"
        if "install" in {result.phase for result in failed} and output.exists():
            with output.open("rb") as file:
                file.seek(max(output.stat().st_size - LOG_BYTES, 0))
                lines.append(file.read().decode(errors="replace").rstrip())
        return Source("last_run", "\n".join(lines) + "\n")
    return Source("last_run", "", "no earlier run worked on it")
