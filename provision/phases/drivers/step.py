"""The step `drivers`: installed before anything is fetched, and checked by a new probe."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from provision.catalog.versions import numbers
from provision.core.errors import InstallError
from provision.core.models.facts import HostFacts, Nvidia
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.phases.install.drivers import DriverWork, driver_work, has_compat
from provision.phases.plan import rocm
from provision.phases.plan import step as plan
from provision.phases.plan.cards import is_made
from provision.phases.probe import step as probe
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.results import PlannedHosts


def apply(context: RunContext, planned: PlannedHosts, *, alone: bool = False) -> PlannedHosts:
    """Install the planned drivers, restart hosts that allow it, and check that the drivers run.

    A host that needs a restart without consent fails, with the next command.

    Args:
        context: The run.
        planned: The hosts with their Stacks.
        alone: Whether the run ends here: hosts without work are recorded too, and served models stay.

    Returns:
        The hosts probed and planned again, where a driver changed.
    """
    work = _needed(context, planned)
    result = _install(context, planned, work, keeps_model=alone) if work else planned
    if alone:
        for host in context.hosts():
            if "install" not in context.outcomes.results[host.name]:
                context.record(
                    PhaseResult(host=host.name, phase="install", status="skipped", text="drivers are as planned")
                )
    return result


def _install(
    context: RunContext, planned: PlannedHosts, work: Mapping[str, DriverWork], *, keeps_model: bool
) -> PlannedHosts:
    started = time.monotonic()
    playbooks.acquire_locks(context, planned, "install", [host for host in context.hosts() if host.name in work])
    hosts = [host for host in context.hosts() if host.name in work]
    for name, error in disagreements(hosts, work).items():
        context.fail(name, "install", error)
    hosts = [host for host in hosts if not context.has_failed(host.name)]
    again = {"firstlight_again": f"./firstlight {context.options.command}"}
    succeeded = playbooks.run_playbook(
        context,
        planned,
        "drivers",
        hosts,
        lambda host: {**work[host.name].ansible_vars(), **again},
        phase="install",
    )
    # All services of a machine lose their connections, and get its drivers.
    machines = {host.machine: work[host.name].reboot for host in hosts}
    for host in context.hosts():
        if machines.get(host.machine):
            context.sessions.forget(host)
    changed_machines = {context.host(name).machine for name in succeeded}
    there = frozenset(host.name for host in context.hosts() if host.machine in changed_machines)
    probed = probe.probe(context, planned, names=there)
    hosts = [host for host in context.hosts() if host.name in succeeded]
    playbooks.acquire_locks(context, probed, "install", hosts)
    changed = set()
    for host in hosts:
        wrong = unproven(work[host.name], probed.facts[host.name])
        if wrong is not None:
            context.fail(host.name, "install", wrong, time.monotonic() - started)
            continue
        result = succeeded[host.name].model_copy(update={"text": work[host.name].named()})
        context.record(result)
        if result.changed:
            changed.add(host.name)
    # A plan for a driver that was to be installed may differ from the plan for the driver that runs.
    replanned = plan.plan(context, probed, keeps_model=keeps_model)
    return replace(replanned, driver_changed=frozenset(changed))


def disagreements(hosts: Sequence[Host], work: Mapping[str, DriverWork]) -> dict[str, InstallError]:
    """Return by host the error that services of its machine need different drivers. Compatibility libraries lie side by side."""
    wanted: dict[str, dict[str, list[str]]] = {}
    for host in hosts:
        if text := work[host.name].model_copy(update={"cuda_compat": None}).named():
            wanted.setdefault(host.machine, {}).setdefault(text, []).append(host.name)
    found: dict[str, InstallError] = {}
    for machine, by_text in wanted.items():
        each = " and ".join(f"{text} for `{names[0]}`" for text, names in by_text.items())
        error = InstallError(
            f"the services of host `{machine}` need different drivers: {each}",
            hint="set firstlight_driver or firstlight_vllm for the host, so that one driver suits all its services",
        )
        if len(by_text) > 1:
            found |= {name: error for names in by_text.values() for name in names}
    return found


def _needed(context: RunContext, planned: PlannedHosts) -> Mapping[str, DriverWork]:
    """Return the work of hosts that have any; a host where it cannot be done fails."""

    def work_of(host: Host) -> DriverWork | None:
        stack = planned.stack(host.name)
        work = driver_work(host, planned.facts[host.name], stack) if stack else DriverWork()
        if not work.needed:
            return None
        if not planned.install_paths[host.name].root:
            raise InstallError(
                f"host `{host.name}` needs {work.named()}, and the login cannot become root there",
                hint="set `ansible_become: true` for it, or have it installed and run the same command again",
            )
        context.run.event("drivers", host=host.name, phase="install", work=work.named(), reboot=work.reboot)
        return work

    return context.call_for_hosts("install", work_of)


def _is_planned(version: str | None, part: Mapping[str, Any]) -> bool:
    """Return whether a version is the planned one, or within the bounds of the plan."""
    if version is None or version == part["version"]:
        return version is not None
    least, below = part.get("at_least"), part.get("below")
    return bool(least and below) and numbers(least) <= numbers(version) < numbers(below)


def unproven(work: DriverWork, facts: HostFacts) -> InstallError | None:
    """Return what the new facts do not show of the work; None when all of it is done."""
    text, hint = next(_missing(work, facts), (None, None))
    return InstallError(f"host `{facts.host}`: {text}", hint=hint) if text else None


def _missing(work: DriverWork, facts: HostFacts) -> Iterator[tuple[str, str]]:
    """Yield what is not there, and what helps."""
    nvidia = facts.nvidia or Nvidia()
    driver, manager = nvidia.driver_version, nvidia.fabric_manager_version
    for name, part, version in (("driver", work.driver, driver), ("fabric manager", work.fabric_manager, manager)):
        if part is not None and not _is_planned(version, part):
            error = f" ({nvidia.smi_error})" if nvidia.smi_error else ""
            text = f"{name} {part['version']} was installed, {version or 'none'} is running{error}"
            yield text, "see the log of the host: journalctl -k -b | grep -i -E 'nvidia|nvrm'"
    if work.fabric_manager is not None and driver != manager:
        text = f"driver {driver} runs with fabric manager {manager}, and both must have the same version"
        yield text, "name a version that the package source has of both, as in `firstlight_driver: ==580.95.05`"
    found = facts.amd.rocm_version if facts.amd else None
    wanted = work.rocm["version"] if work.rocm and rocm.USERSPACE in work.rocm["parts"] else None
    if wanted and (found is None or numbers(found) < numbers(wanted)):
        text = f"ROCm {wanted} was installed, {found or 'none'} is in use"
        yield text, "see what /opt/rocm points to, and /opt/rocm/.info/version, on the host"
    if work.slices and not is_made(facts, work.slices["layout"]):
        text = f"{work.named()} were made, and nvidia-smi -L lists others"
        yield text, "see the slices on the host: nvidia-smi -L"
    if work.cuda_compat and not has_compat(facts, work.cuda_compat["folder"]):
        text = f"{work.named()} were installed, and {work.cuda_compat['folder']}/libcuda.so.1 is not there"
        yield text, f"see what the package holds: dpkg -L or rpm -ql {work.cuda_compat['packages'][0]}"
