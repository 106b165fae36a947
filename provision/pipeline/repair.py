"""`doctor --apply`: removes one cause by a tag of the playbook `repair`, with consent, and checks that it is gone."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from provision.catalog.load import catalog
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.pipeline import CommandRequest
from provision.pipeline.phases import PROBE
from provision.pipeline.runner import execute
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.deb_packages import send_missing
from provision.run.desired_state import packages_by_need
from provision.run.results import ProbedHosts
from provision.run.step import Step
from verify.doctor.catalog import Cause, Fix
from verify.doctor.scoring import LIKELY_AT, Finding

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
    outcome: str
    interrupted: bool = False

    def document(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "cause": self.cause,
            "tag": self.tag,
            "gone": self.gone,
            "interrupted": self.interrupted,
            "text": self.outcome,
        }

    def text(self) -> str:
        """Return one line."""
        how = "gone" if self.gone else "interrupted" if self.interrupted else "not gone"
        return f"{self.cause}: {how}: {self.outcome}"


def repair_host(
    request: CommandRequest, host: Host, findings: Sequence[Finding], agree: Callable[[str], bool]
) -> Repair | None:
    """Remove the cause of the first finding, where its fix is marked as safe and the person agrees.

    Return what was done; None without a finding.
    """
    if not findings:
        return None
    first = findings[0]
    cause = first.cause
    fix = next((fix for fix in cause.fixes if fix.safe), None)
    if fix is None:
        return Repair(cause.id, None, False, "no step of its fix is safe to apply automatically; do them as listed")
    if first.confidence < LIKELY_AT:
        text = f"only {first.label} ({first.confidence:.2f}); apply the fix yourself if you agree"
        return Repair(cause.id, None, False, text)
    try:
        agreed = agree(proposal(host, cause, fix))
    except KeyboardInterrupt:
        return Repair(cause.id, None, False, f"nothing was changed on {host.name}", interrupted=True)
    if not agreed:
        return Repair(cause.id, None, False, "nothing was changed: no consent")
    return apply_fix(request, host, cause, fix)


def proposal(host: Host, cause: Cause, fix: Fix) -> str:
    """Return what would be done, as a question."""
    needs = f" (needs {', '.join(fix.needs)})" if fix.needs else ""
    return (
        f"on {host.name}: {fix.text}{needs}\n"
        f"  by playbooks/{PLAYBOOK}.yml --tags {fix.tag}\n"
        f"  then check whether {cause.id} is gone: {cause.check.expect}\n"
        f"    $ {cause.check.command}\n"
        "do it?"
    )


def apply_fix(request: CommandRequest, host: Host, cause: Cause, fix: Fix) -> Repair:
    """Apply a fix and run the check of its cause, as a run of its own."""
    steps = (
        PROBE,
        Step("repair", partial(_run_fix, fix=fix), "install"),
        Step("check", partial(_check_cause, cause=cause), "verify"),
    )
    summary = execute(request, steps).summary
    [entry] = [entry for entry in summary.hosts if entry.name == host.name]
    return repair_of(list(entry.phases.values())[-1], cause, fix, interrupted=summary.interrupted)


def _run_fix(context: RunContext, probed: ProbedHosts, *, fix: Fix) -> ProbedHosts:
    playbooks.acquire_locks(context, probed, "install", context.hosts())
    wanted = {host.name: packages(fix.tag, probed.facts[host.name]) for host in context.hosts()}
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


def packages(tag: str, facts: HostFacts) -> list[str]:
    """Return the names of a system package in the host's distribution; none for other tags."""
    if tag not in {need.name for need in catalog().system_needs}:
        return []
    python = next((found.version for found in facts.pythons if found.version), "3")
    return [*packages_by_need([tag], facts, python=python)]


def _check_cause(context: RunContext, probed: ProbedHosts, *, cause: Cause) -> ProbedHosts:
    """Run the check of a cause on each host: exit code 0 means that the cause is gone."""
    started = time.monotonic()

    def call(host: Host) -> tuple[int, str]:
        paths = probed.install_paths[host.name]
        prefix = shlex.quote(paths.prefix)
        command = (
            f"export FIRSTLIGHT_PREFIX={prefix} FIRSTLIGHT_PORT={host.settings.port} PATH={prefix}/current/bin:$PATH\n"
            f"{cause.check.command}"
        )
        done = context.session(host).run(command, timeout_s=CHECK_DEADLINE_S, root=paths.root)
        return done.rc, " ".join((done.stdout + done.stderr).split())[-200:]

    answers = context.run_on_hosts("verify", context.hosts(), call, deadline_s=CHECK_DEADLINE_S + 60)
    for name, (code, output) in answers.items():
        result = PhaseResult(
            host=name,
            phase="verify",
            status="ok",
            seconds=round(time.monotonic() - started, 3),
            text=cause.check.expect,
            evidence=(f"$ {cause.check.command}", f"exit code {code}"),
        )
        if code == 0:
            context.record(result)
            continue
        text = f"its check ended with {code}: {output or 'no output'}; expected: {cause.check.expect}"
        hint = "the fix did not help; do the other steps of the finding by hand"
        context.reject(result.model_copy(update={"status": "failed", "text": text, "hint": hint}))
    return probed
