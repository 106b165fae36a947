"""Summary of a run for one of its hosts, written there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from provision.core.models.records import AttentionProof, HostSummary, ServeRecord, Summary
from provision.core.models.stack import Stack
from provision.core.redaction import scrub
from provision.report import text
from provision.report.run_files import Verification, verification
from provision.report.summary_builder import verdict


def render(summary: Summary, host: HostSummary) -> str:
    """Return a run's text as far as it concerns one host.

    Args:
        summary: Summary of the run.
        host: The host's part of it.
    """
    own = {
        "hosts": (host,),
        "changed": int(host.changed),
        # those of a fleet are about other hosts
        "next_commands": summary.next_commands if len(summary.hosts) == 1 else (),
        "verdict": verdict((host,), host_comparison=summary.host_comparison, interrupted=summary.interrupted),
    }
    return text.render(summary.model_copy(update=own))


def with_records(
    host: HostSummary, stack: Mapping[str, Any], proof: Mapping[str, Any], checks: Mapping[str, Any]
) -> HostSummary:
    """Complete what a run left unknown by the host's own records; a malformed record counts as absent.

    Args:
        host: The host's part of a summary.
        stack: The Stack of its live environment.
        proof: The newest proof of its service, which holds for the release that it proved.
        checks: The document of its newest checks.
    """
    found, served, verified = _stack(scrub(stack)), _proof(scrub(proof)), _checks(scrub(checks))
    update: dict[str, Any] = {"stack": found}
    if host.serve is None and found is not None and found.vllm is not None:
        is_stopped = host.state == "stopped"
        update["attention"] = AttentionProof(asked=found.attention.backend, used="none" if is_stopped else None)
        if served is not None and not is_stopped and proof.get("release") == host.release:
            update |= {"attention": served.attention, "serve": served}
    if not host.checks:
        update |= {"checks": verified.checks, "checks_at": verified.at}
    return host.model_copy(update=update)


def _stack(document: Any) -> Stack | None:
    try:
        return Stack.model_validate(document)
    except ValidationError:
        return None


def _proof(document: Any) -> ServeRecord | None:
    try:
        return ServeRecord.model_validate(document.get("record"))
    except ValidationError:
        return None


def _checks(document: Any) -> Verification:
    try:
        return verification(document)
    except (ValueError, AttributeError, TypeError):
        return Verification()
