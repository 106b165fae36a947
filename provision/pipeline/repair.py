"""`doctor --apply`: take one cause away by a playbook's tag, with consent, and see whether it is gone."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from provision.catalog.load import catalog
from provision.catalog.system import os_packages
from provision.core.models.facts import HostFacts
from provision.core.models.records import PhaseResult
from provision.core.models.settings import Host
from provision.pipeline import Request, playbooks
from provision.pipeline.context import RunContext
from provision.pipeline.phases import PROBE
from provision.pipeline.runner import execute
from verify.doctor.catalog import Cause, Fix
from verify.doctor.score import LIKELY_AT, Finding

PLAYBOOK = "repair"
BRING_DEADLINE_S = 900.0
CHECK_DEADLINE_S = 900.0
"""A cause may be gone only when the service answers again."""


@dataclass(frozen=True)
class Outcome:
    """What was done about a finding."""

    cause: str
    tag: str | None
    """Of the playbook that ran; null when none did."""
    gone: bool
    said: str
    interrupted: bool = False

    def document(self) -> dict[str, Any]:
        return {
            "cause": self.cause,
            "tag": self.tag,
            "gone": self.gone,
            "interrupted": self.interrupted,
            "text": self.said,
        }

    def text(self) -> str:
        how = "gone" if self.gone else "interrupted" if self.interrupted else "not gone"
        return f"{self.cause}: {how}: {self.said}"


def repair_host(
    request: Request, host: Host, findings: Sequence[Finding], agree: Callable[[str], bool]
) -> Outcome | None:
    """Take the first finding's cause away where its entry says that this is safe, after a yes; null without a finding.

    What is not safe is a person's to do: its steps stand with the finding.
    """
    if not findings:
        return None
    first = findings[0]
    cause = first.cause
    fix = next((fix for fix in cause.fixes if fix.safe), None)
    if fix is None:
        return Outcome(cause.id, None, gone=False, said="no step of its fix is safe to do unasked; do them as listed")
    if first.confidence < LIKELY_AT:
        said = f"only {first.word} ({first.confidence:.2f}); act on it yourself when you think it right"
        return Outcome(cause.id, None, gone=False, said=said)
    try:
        agreed = agree(proposal(host, cause, fix))
    except KeyboardInterrupt:
        return Outcome(cause.id, None, gone=False, said=f"nothing was changed on {host.name}", interrupted=True)
    if not agreed:
        return Outcome(cause.id, None, gone=False, said="nothing was changed: no consent")
    return applied(request, host, cause, fix)


def proposal(host: Host, cause: Cause, fix: Fix) -> str:
    """What would be done, for the person who is asked."""
    needs = f" (needs {', '.join(fix.needs)})" if fix.needs else ""
    return (
        f"on {host.name}: {fix.text}{needs}\n"
        f"  by playbooks/{PLAYBOOK}.yml --tags {fix.tag}\n"
        f"  then this tells whether {cause.id} is gone: {cause.check.expect}\n"
        f"    $ {cause.check.command}\n"
        "do it?"
    )


def applied(request: Request, host: Host, cause: Cause, fix: Fix) -> Outcome:
    """Run the fix and its check as a run of its own, with its own record."""

    def run_playbook(context: RunContext) -> None:
        playbooks.acquire_locks(context, "install", context.hosts())
        sent = context.run_on_hosts(
            "install", context.hosts(), lambda host: bring(context, host, fix.tag), deadline_s=BRING_DEADLINE_S
        )

        def read(host: Host) -> dict[str, Any]:
            return {**variables(context, host, fix.tag), "firstlight_debs": sent[host.name]}

        for result in playbooks.run_playbook(
            context, PLAYBOOK, "install", context.hosts(), read, tags=(fix.tag,)
        ).values():
            context.record(result)

    summary, _ = execute(
        request,
        (PROBE, ("install", run_playbook), ("verify", lambda context: check(context, cause))),
    )
    [told] = [entry for entry in summary.hosts if entry.name == host.name]
    return judged(list(told.phases.values())[-1], cause, fix, interrupted=summary.interrupted)


def judged(last: PhaseResult, cause: Cause, fix: Fix, *, interrupted: bool) -> Outcome:
    """What the last phase of the run says of the cause, and after an interruption of the host."""
    gone = last.phase == "verify" and last.status == "ok"
    if gone or not interrupted:
        return Outcome(cause.id, fix.tag, gone=gone, said=last.text or last.status)
    told = {
        "probe": "nothing was changed yet",
        "install": f"{last.text}; the host is as that task left it, and the same command goes on from there",
        "verify": f"the fix was applied; whether it helped was not seen: {cause.check.command}",
    }
    return Outcome(cause.id, fix.tag, gone=False, said=told[last.phase], interrupted=True)


def variables(context: RunContext, host: Host, tag: str) -> dict[str, Any]:
    """What the playbook reads; a tag that is the neutral name of a system package brings that package."""
    values = context.install_paths[host.name].ansible_vars()
    return {**values, "firstlight_system_packages": packages(tag, context.facts[host.name])}


def bring(context: RunContext, host: Host, tag: str) -> list[str]:
    """Send a host without package sources the files of the package that a tag names; their names.

    Raises StageError when this machine cannot fetch them, TransportError.
    """
    from provision.fleet.package_sources import package_sources_answer  # noqa: PLC0415 - hosts seldom lack packages
    from provision.phases.stage.debs import fetch_debs  # noqa: PLC0415 - hosts seldom lack packages

    facts, session = context.facts[host.name], context.session(host)
    wanted = packages(tag, facts)
    if not wanted or facts.os.package_manager != "apt" or package_sources_answer(session) is not False:
        return []
    status = session.read("/var/lib/dpkg/status").decode(errors="replace")
    files = fetch_debs(wanted, status, facts.os, store=context.wheelhouse())
    session.send(files, context.install_paths[host.name].incoming)
    return [file.name for file in files]


def packages(tag: str, facts: HostFacts) -> list[str]:
    """The host's own packages for a neutral name; none for other tags."""
    if tag not in {need.name for need in catalog().system_needs}:
        return []
    python = next((found.version for found in facts.pythons if found.version), "3")
    return list(
        os_packages(
            [tag],
            manager=facts.os.package_manager or "apt",
            python=python,
            os_id=facts.os.id,
            os_version=facts.os.version_id,
        )
    )


def check(context: RunContext, cause: Cause) -> None:
    """Run the entry's check where the fix ran: exit code 0 says that the cause is gone."""
    started = time.monotonic()

    def call(host: Host) -> tuple[int, str]:
        paths = context.install_paths[host.name]
        prefix = shlex.quote(paths.prefix)
        command = (
            f"export FIRSTLIGHT_PREFIX={prefix} FIRSTLIGHT_PORT={host.settings.port} PATH={prefix}/current/bin:$PATH\n"
            f"{cause.check.command}"
        )
        done = context.session(host).run(command, timeout_s=CHECK_DEADLINE_S, root=paths.root)
        return done.rc, " ".join((done.stdout + done.stderr).split())[-200:]

    for name, (code, said) in context.run_on_hosts(
        "verify", context.hosts(), call, deadline_s=CHECK_DEADLINE_S + 60
    ).items():
        seconds = round(time.monotonic() - started, 3)
        ran = (f"$ {cause.check.command}", f"exit code {code}")
        if code == 0:
            text = cause.check.expect
            context.record(
                PhaseResult(host=name, phase="verify", status="ok", seconds=seconds, text=text, evidence=ran)
            )
        else:
            text = f"its check ended with {code}: {said or 'no output'}; wanted is: {cause.check.expect}"
            hint = "the fix did not help; the other steps of the finding are a person's to do"
            context.reject(
                PhaseResult(
                    host=name, phase="verify", status="failed", seconds=seconds, text=text, hint=hint, evidence=ran
                )
            )
