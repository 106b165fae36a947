"""`doctor --host`: what a live host says of its failure, kept in the run's folder and diagnosed. Nothing is changed there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provision.core.errors import Exit, UsageError
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Host
from provision.core.run_folder import RunFolder
from provision.phases.probe import Source
from provision.pipeline import Request, failure_evidence, repair
from provision.pipeline.commands import print_summary, write_stdout
from provision.pipeline.context import RunContext
from provision.pipeline.phases import PROBE
from provision.pipeline.runner import execute, read_inventory
from provision.report.run_files import results_of
from verify.doctor import render
from verify.doctor.cli import FOUND, UNKNOWN
from verify.doctor.engine import NOWHERE, Diagnosis, diagnose_texts

LOG_BYTES = 1 << 20
"""At most so much of an earlier run's output, the newest."""


@dataclass(frozen=True)
class Consultation:
    """What a host said, and what the doctor says of it."""

    host: Host
    folder: Path
    sources: tuple[Source, ...]
    diagnosis: Diagnosis
    again: str
    """The command that has the host as the inventory wants it, once the cause is gone."""

    def document(self, *, top: int) -> dict[str, Any]:
        """As `--json` prints it (docs/reference/doctor.md)."""
        sources = [{"name": source.name, "absent": source.absent} for source in self.sources]
        return {
            **render.document(self.host.name, self.diagnosis, top=top),
            "sources": sources,
            "folder": str(self.folder),
        }

    def text(self, *, top: int) -> str:
        """As people read it: the findings, then what they rest on."""
        read = ", ".join(source.name for source in self.sources if source.absent is None) or "nothing"
        lines = [render.text(self.host.name, self.diagnosis, top=top), f"read: {read}; kept in {self.folder}"]
        lines += [f"not read: {source.name}: {source.absent}" for source in self.sources if source.absent is not None]
        return "\n".join(lines)


def consult(request: Request, *, top: int, as_json: bool, apply: bool, agree: Callable[[str], bool]) -> int:
    """Read one host, name its causes, and with `apply` take the first one away where that is safe; the exit code."""
    only_host(request)
    seen: list[Consultation] = []

    def step(context: RunContext) -> None:
        seen.extend(look(context, request))

    summary, code = execute(request, (PROBE, ("probe", step)))
    if not seen or code == Exit.INTERRUPTED:
        print_summary(request, summary, as_json=as_json)
        return code
    [found] = seen
    if not as_json:
        write_stdout(request.invocation.complete(found.text(top=top)))
    outcome = repair.repair_host(request, found.host, found.diagnosis.findings, agree) if apply else None
    if as_json:
        document = found.document(top=top)
        write_stdout(json.dumps([{**document, "applied": outcome.document()} if outcome else document], indent=2))
    elif outcome:
        write_stdout(outcome.text() + (f"\nnow go on: {found.again}" if outcome.gone else ""))
    if not found.diagnosis.findings:
        return UNKNOWN
    if outcome is None or outcome.gone:
        return FOUND
    return Exit.INTERRUPTED if outcome.interrupted else Exit.RED


def only_host(request: Request) -> Host:
    """The one host that was asked for. Raises UsageError when there are several."""
    hosts = read_inventory(request).hosts
    if len(hosts) != 1:
        raise UsageError(
            f"--host {request.limit} names {len(hosts)} hosts: {', '.join(host.name for host in hosts)}",
            hint="name one of them",
        )
    return hosts[0]


def look(context: RunContext, request: Request) -> list[Consultation]:
    """Read each host's evidence and diagnose it with the facts of the probe just made."""
    consultations = []
    gathered, failed = failure_evidence.gather(context, context.hosts())
    for name, error in failed.items():
        context.fail(name, "probe", error)
    for name, answer in gathered.items():
        sources = (failure_evidence.keep(context, name, earlier(request.logs, name)), *answer)
        facts = context.facts[name].model_dump(mode="json")
        diagnosis = diagnose_texts({source.name: source.text for source in sources if source.text}, facts)
        again = request.invocation.suggest("provision", hosts=name)
        diagnosis = with_service(diagnosis, context.facts[name], again)
        context.run.write(f"evidence/{name}.json", render.document(name, diagnosis, top=len(diagnosis.findings) or 1))
        folder = context.run.path(f"evidence/{name}")
        consultations.append(Consultation(context.host(name), folder, sources, diagnosis, again))
    return consultations


def with_service(diagnosis: Diagnosis, facts: HostFacts, again: str) -> Diagnosis:
    """A service that was stopped in order leaves no sign of a failure: without a finding, that is where to look."""
    if diagnosis.findings or facts.installed is None or facts.installed.service != "inactive":
        return diagnosis
    told = f"The service is stopped, and nothing says that it failed: somebody stopped it. To serve again: {again}"
    return replace(diagnosis, look_next=(told, *(advice for advice in diagnosis.look_next if advice != NOWHERE)))


def earlier(logs: Path, host: str) -> Source:
    """What the newest run that worked on a host said of it, where it failed; what went well is no evidence."""
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
