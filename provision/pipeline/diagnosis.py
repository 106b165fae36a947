"""`doctor --limit` reads the evidence of a failure on a live host and diagnoses it; `--apply` removes one cause, with consent.

A cause is removed by a tag of the playbook `repair`, and its check says whether it is gone.
"""

import json
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from provision.core import features
from provision.core.errors import Exit, UsageError
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.core.run_folder import RunFolder
from provision.phases.probe.failure_evidence import Source
from provision.pipeline import CommandRequest, failure_evidence
from provision.pipeline.commands import print_summary, write_stdout
from provision.pipeline.phases import PROBE, PROBE_IN_FULL
from provision.pipeline.runner import execute, read_inventory
from provision.report.difference import connections
from provision.report.run_files import results_of
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.deb_packages import send_missing
from provision.run.results import AnsweredHosts, ProbedHosts
from provision.run.step import Step
from verify.doctor import render
from verify.doctor.catalog import Cause, Fix
from verify.doctor.cli import FOUND
from verify.doctor.engine import NO_KNOWN_CAUSE, Diagnosis, diagnose_texts
from verify.doctor.scoring import LIKELY_AT, Finding

LOG_BYTES = 1 << 20
"""Bytes of an earlier run's output that are read, from its end."""
_OTHERS = r"(?m)^(\[ERROR\]: ((?!TASK |fatal: |failed: ).*\n)+)?(fatal|failed): \[(?!%s[] ]).*\n(( .*)?\n)*"
"""The failure of another host in it: the reason, then the host with its result."""


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
        absent = [f"no evidence from {one.name}: {one.absent}" for one in self.sources if one.absent is not None]
        found = render.render_text(self.host.name, self.diagnosis, top=top)
        return "\n".join([found, f"read: {read}; kept in {self.folder}", *absent])


def diagnose_host(
    request: CommandRequest, *, top: int, apply: bool, agree: Callable[[str], bool], exit_code: bool = False
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
    found: list[HostDiagnosis] = outcome.result.answer if isinstance(outcome.result, AnsweredHosts) else []
    if not found or outcome.exit_code == Exit.INTERRUPTED:
        return print_summary(outcome)
    [first] = found
    if not request.as_json:
        write_stdout(request.invocation.complete(first.text(top=top)))
    done = repair_host(request, first.host, first.diagnosis.findings, agree) if apply else None
    if request.as_json:
        document = first.document(top=top)
        write_stdout(json.dumps([{**document, "applied": asdict(done)} if done else document], indent=2))
    elif done:
        write_stdout(done.line() + (f"\nnext: {first.next_command}" if done.gone else ""))
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


def diagnose(
    context: RunContext, probed: ProbedHosts, *, request: CommandRequest
) -> AnsweredHosts[list[HostDiagnosis]]:
    """Read the evidence of each host, and diagnose it with the facts of the probe."""
    diagnoses, ways = [], connections(context.run.folder)
    gathered, failed = failure_evidence.gather(context, probed, context.hosts())
    for name, error in failed.items():
        context.fail(name, "probe", error)
    for name, answer in gathered.items():
        host = context.host(name)
        own = (earlier(request.logs, name, ways.get(name)), stopped_processes(probed.facts[name]))
        sources = (*(failure_evidence.keep(context, name, source) for source in own), *answer)
        facts = probed.facts[name].model_dump(mode="json")
        diagnosis = diagnose_texts({source.name: source.text for source in sources if source.text}, facts)
        next_command = request.invocation.suggest("provision", hosts=name)
        fitted = tuple(
            replace(found, evidence=replace(found.evidence, cause=failure_evidence.on_host(found.cause, host, probed)))
            for found in diagnosis.findings
        )
        diagnosis = with_service(replace(diagnosis, findings=fitted), probed.facts[name], next_command)
        context.run.write(f"evidence/{name}.json", render.to_json(name, diagnosis, top=len(diagnosis.findings) or 1))
        folder = context.run.path(f"evidence/{name}")
        diagnoses.append(HostDiagnosis(host, folder, sources, diagnosis, next_command))
    return AnsweredHosts(**vars(probed), answer=diagnoses)


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


def earlier(logs: Path, host: str, way: tuple[Any, ...] | None = None) -> Source:
    """Return the texts of the newest run that worked on a host, where it failed there.

    A run of a rollout that is not done may have taken the host back, and is sound then: the run of that rollout which failed on the
    host is read instead, or the decision of the gate. A run that reached the host by another `way` worked on one of another inventory.
    """
    runs = (path.parent for path in logs.glob("*/phases.json") if path.parent.name != "latest")
    is_checked = False
    for run in sorted(runs, reverse=True):
        results = results_of(RunFolder(run)).get(host, {})
        if results and way not in (connections(run).get(host, way), None):
            continue
        failed = failure_evidence.failed_results(results)
        if not {"install", "serve", "stage"} & set(results):  # it neither changed the host nor was to
            if failed and "verify" in results and not is_checked:
                return source_of_run(run, failed)
            is_checked |= "verify" in results
            continue
        if failed:
            return source_of_run(run, failed)
        found: Source | None = features.first("earlier_failure", logs, host, run.name)
        return found or Source("last_run", "", f"run {run.name} did not fail there")
    return Source("last_run", "", "no earlier run worked on it")


def source_of_run(run: Path, failed: Sequence[PhaseResult]) -> Source:
    """Return what a run that failed on a host has printed, without the failures of other hosts."""
    lines = [line for result in failed for line in (result.text, *result.evidence) if line]
    output = run / "install" / "ansible.log"
    if "install" in {result.phase for result in failed} and output.exists():
        with output.open("rb") as file:
            file.seek(max(output.stat().st_size - LOG_BYTES, 0))
            lines.append(re.sub(_OTHERS % re.escape(failed[0].host), "", file.read().decode(errors="replace")).rstrip())
    return Source("last_run", "\n".join(lines) + "\n")


PLAYBOOK = "repair"
CHECK_DEADLINE_S = 900.0
"""Seconds: some causes are gone only when the service answers again."""


@dataclass(frozen=True)
class Repair:
    """What was done about a finding."""

    cause: str
    tag: str | None
    """The tag of the tasks that ran; None when none did."""
    gone: bool
    text: str
    interrupted: bool = False

    def line(self) -> str:
        """Return one line."""
        how = "gone" if self.gone else "interrupted" if self.interrupted else "not gone"
        return f"{self.cause}: {how}: {self.text}"


def repair_host(
    request: CommandRequest, host: Host, findings: Sequence[Finding], agree: Callable[[str], bool]
) -> Repair | None:
    """Remove the cause of the first finding and check it, as a run of its own, where its fix is safe and the person agrees.

    Return what was done; None without a finding.
    """
    if not findings:
        return None
    first, cause = findings[0], findings[0].cause
    fix = next((fix for fix in cause.fixes if fix.safe), None)
    if fix is None:
        return Repair(cause.id, None, False, "no step of its fix is safe to apply automatically; do them as listed")
    if first.confidence < LIKELY_AT:
        text = f"only {first.label} ({first.confidence:.2f}); apply the fix yourself if you agree"
        return Repair(cause.id, None, False, text)
    needs = f" (needs {', '.join(fix.needs)})" if fix.needs else ""
    proposal = (
        f"on {host.name}: {fix.text}{needs}\n"
        f"  by playbooks/{PLAYBOOK}.yml --tags {fix.tag}\n"
        f"  then check whether {cause.id} is gone: {cause.check.expect}\n"
        f"    $ {cause.check.command}\n"
        "do it?"
    )
    try:
        agreed = agree(proposal)
    except KeyboardInterrupt:
        return Repair(cause.id, None, False, f"nothing was changed on {host.name}", interrupted=True)
    if not agreed:
        return Repair(cause.id, None, False, "nothing was changed: no consent")
    repair = Step("repair", partial(_run_fix, fix=fix), "install")
    check = Step("check", partial(_check_cause, cause=cause), "verify")
    summary = execute(request, (PROBE, repair, check)).summary
    [entry] = [entry for entry in summary.hosts if entry.name == host.name]
    return repair_of(list(entry.phases.values())[-1], cause, fix, interrupted=summary.interrupted)


def _run_fix(context: RunContext, probed: ProbedHosts, *, fix: Fix) -> ProbedHosts:
    playbooks.acquire_locks(context, probed, "install", context.hosts())
    wanted = {host.name: failure_evidence.packages(fix.tag, probed.facts[host.name]) for host in context.hosts()}
    sent = send_missing(context, probed, wanted, phase="install")

    def variables(host: Host) -> dict[str, Any]:
        return {"firstlight_system_packages": wanted[host.name], "firstlight_debs": sent[host.name]}

    results = playbooks.run_playbook(
        context, probed, PLAYBOOK, context.hosts(), variables, phase="install", tags=(fix.tag,)
    )
    for result in results.values():
        context.record(result)
    return probed


def repair_of(last: PhaseResult, cause: Cause, fix: Fix, *, interrupted: bool) -> Repair:
    """Return what the last phase of the run shows of the cause, and after an interruption of the host."""
    gone = last.phase == "verify" and last.status == "ok"
    if gone or not interrupted:
        return Repair(cause.id, fix.tag, gone, last.text or last.status)
    texts = {
        "probe": "nothing was changed yet",
        "install": f"{last.text}; the host is as that task left it, and the same command continues from there",
        "verify": f"the fix was applied; whether it helped is not known: {cause.check.command}",
    }
    return Repair(cause.id, fix.tag, False, texts[last.phase], interrupted=True)


def _check_cause(context: RunContext, probed: ProbedHosts, *, cause: Cause) -> ProbedHosts:
    """Run the check of a cause on each host: exit code 0 means that the cause is gone."""
    started = time.monotonic()

    def call(host: Host) -> tuple[int, str]:
        paths = probed.install_paths[host.name]
        prefix = shlex.quote(paths.prefix)
        command = f"export PATH={prefix}/current/bin:$PATH\n{cause.check.command}"
        done = context.session(host).run(command, timeout_s=CHECK_DEADLINE_S, root=paths.root)
        return done.rc, " ".join((done.stdout + done.stderr).split())[-200:]

    answers = context.run_on_hosts("verify", context.hosts(), call, deadline_s=CHECK_DEADLINE_S + 60)
    seconds, expected = round(time.monotonic() - started, 3), cause.check.expect
    for name, (code, output) in answers.items():
        evidence = (f"$ {cause.check.command}", f"exit code {code}")
        result = PhaseResult(host=name, phase="verify", status="ok", seconds=seconds, text=expected, evidence=evidence)
        if code == 0:
            context.record(result)
            continue
        text = f"its check ended with {code}: {output or 'no output'}; expected: {expected}"
        hint = "the fix did not help; do the other steps of the finding by hand"
        context.reject(result.model_copy(update={"status": "failed", "text": text, "hint": hint}))
    return probed
