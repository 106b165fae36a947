"""The phase probe as a step of a run."""

from __future__ import annotations

from collections.abc import Sequence

from provision.core.install_paths import install_paths_of
from provision.core.models.facts import HostFacts
from provision.core.models.records import PhaseResult
from provision.core.models.settings import Host
from provision.phases.probe import probe as look_at
from provision.pipeline.context import RunContext

PROBE_DEADLINE_S = 40.0
MAX_CLOCK_SKEW_S = 300.0
"""Beyond this a certificate that is fresh today may look not yet valid, and times in logs mislead."""


def probe(context: RunContext) -> None:
    """Find out what each host is."""
    look(context, context.hosts())


def look(context: RunContext, hosts: Sequence[Host]) -> None:
    """Probe hosts; what was known of them before is replaced."""

    def call(host: Host) -> HostFacts:
        facts = look_at(host, context.session(host), prefix=host.settings.prefix)
        if facts.installed is None or not facts.installed.drift:
            return facts
        from provision.phases.probe.changes import with_authors  # noqa: PLC0415 - only runs that find drift pay for it

        drift = with_authors(facts.installed.drift, context.session(host), root=install_paths_of(host, facts).root)
        return facts.model_copy(update={"installed": facts.installed.model_copy(update={"drift": drift})})

    looked_at = context.run_on_hosts(
        "probe", hosts, call, deadline_s=PROBE_DEADLINE_S, while_waiting=context.while_waiting
    )
    for name, facts in looked_at.items():
        context.facts[name] = facts
        context.install_paths[name] = install_paths_of(context.host(name), facts)
        context.run.write(f"facts/{name}.json", facts)
        context.record(_probed(name, facts))


def _probed(name: str, facts: HostFacts) -> PhaseResult:
    skew, seconds = facts.clock_skew_s, facts.seconds or 0.0
    if skew is None or abs(skew) <= MAX_CLOCK_SKEW_S:
        return PhaseResult(host=name, phase="probe", status="ok", seconds=seconds)
    return PhaseResult(
        host=name,
        phase="probe",
        status="warn",
        seconds=seconds,
        text=f"the clock of host `{name}` is {skew:+.0f} s from the controller's",
        hint="set it (systemd-timesyncd or chrony): certificates and the times in logs depend on it",
    )
