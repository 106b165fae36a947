"""Where quarantine takes part in the work of the core: hosts are marked when their checks have ended."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.run_folder import utc_now
from provision.features.quarantine.hardware import hardware_failure
from provision.features.quarantine.marks import Quarantine, QuarantineStore, has_nothing_live, mark_in_force
from provision.features.quarantine.quarantine import because_of, notify_gateways, write_mark
from provision.phases.verify.run_checks import CheckOptions, Verified
from provision.run.context import LeftOut, RunContext
from provision.run.results import ProbedHosts


def left_out(logs: Path, host: Host, facts: HostFacts | None) -> LeftOut | None:
    """Return why a quarantined host takes no part in runs; None of any other."""
    mark = mark_in_force(QuarantineStore(logs), host, facts)
    return because_of(host, mark) if mark else None


def host_checked(context: RunContext, probed: ProbedHosts, host: Host, document: Mapping[str, Any]) -> None:
    """Mark a host whose hardware failed a check: first in the controller's state, which is always possible, then on itself.

    A host on which nothing is live yet needs no mark.
    """
    failure = hardware_failure(document)
    if failure is None or has_nothing_live(probed.facts.get(host.name)):
        return
    mark = Quarantine(
        at=utc_now(),
        check=failure.check,
        text=failure.text,
        device=failure.device,
        run=context.run.name,
        controller=platform.node(),
    )
    QuarantineStore(context.run.logs).put(host, mark)
    refused = write_mark(context, probed, host, mark)
    reason = "quarantined: later runs leave it out"
    if refused is not None:
        reason += "; the mark could not be written on the host, this controller has it"
    context.outcomes.left_out[host.name] = because_of(host, mark, reason)
    context.run.event("quarantine", host=host.name, phase="verify", text=mark.sentence, refused=refused)


def hosts_checked(
    context: RunContext, probed: ProbedHosts, answers: dict[str, Verified], options: CheckOptions
) -> dict[str, Verified]:
    """Let gateways give marked hosts no new requests; a run that proves a host after its return brings it back."""
    del probed, options
    notify_gateways(context, [name for name in answers if name in context.outcomes.left_out], drain=True)
    return answers
