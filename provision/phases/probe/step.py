"""The phase `probe`: facts of each host."""

from collections.abc import Collection
from dataclasses import replace

from provision.core import features
from provision.core.install_paths import install_paths_of
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.fleet.inventory.machines import shared_installations, shared_machines
from provision.phases.probe.reading import IN_FULL
from provision.phases.probe.reading import probe as probe_host
from provision.run.context import RunContext
from provision.run.results import HostsT

PROBE_DEADLINE_S = 40.0
MAX_CLOCK_SKEW_S = 300.0
"""Beyond this a fresh certificate may not be valid yet, and times in logs mislead."""


def probe(
    context: RunContext, earlier: HostsT, *, names: frozenset[str] | None = None, more: Collection[str] = ()
) -> HostsT:
    """Probe hosts.

    Args:
        context: The run.
        earlier: What is known already; facts of the hosts that are probed are replaced.
        names: The hosts to probe; all when None.
        more: What is read in addition: IN_FULL, which always is where a feature needs it, and CONFIGURATION.

    Returns:
        The facts of all hosts that answered now or earlier. Two names of one machine fail, and have none; so does a machine with the installation of another.
    """
    is_needed = any(needed(context) for needed in features.hooks("needs_full_probe"))
    wanted = {*more, IN_FULL} if is_needed else more

    def call(host: Host) -> HostFacts:
        facts = probe_host(host, context.session(host), more=wanted)
        # Here and not at the end, for all hosts: the others still work.
        context.run.write(f"facts/{host.name}.json", facts)
        return facts

    hosts = [host for host in context.hosts() if names is None or host.name in names]
    found = context.run_on_hosts("probe", hosts, call, deadline_s=PROBE_DEADLINE_S)
    refused = shared_machines(context.inventory.hosts, {**earlier.facts, **found}) | shared_installations(hosts, found)
    for name, error in refused.items():
        context.fail(name, "probe", error)
    found = {name: facts for name, facts in found.items() if name not in refused}
    for name, facts in found.items():
        context.record(_probe_result(name, facts))
    paths = {name: install_paths_of(context.host(name), facts) for name, facts in found.items()}
    return replace(earlier, facts={**earlier.facts, **found}, install_paths={**earlier.install_paths, **paths})


def _probe_result(name: str, facts: HostFacts) -> PhaseResult:
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
