"""Drivers, as a step of a run: brought before anything is fetched, restarted for with consent, proven by a new look."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from provision.catalog.versions import numbers
from provision.core.errors import FirstlightError, InstallError
from provision.core.models.facts import HostFacts
from provision.core.models.records import PhaseResult
from provision.phases.install.drivers import DriverWork, driver_work, has_compat
from provision.pipeline import plan, playbooks, probe
from provision.pipeline.context import RunContext


def apply(context: RunContext) -> None:
    """Have every host's drivers as planned; a host that needs a restart nobody consented to ends here, with the next command."""
    work = _needed(context)
    if not work:
        return
    started = time.monotonic()
    playbooks.acquire_locks(context, "install", [host for host in context.hosts() if host.name in work])
    hosts = [host for host in context.hosts() if host.name in work]
    again = {"firstlight_again": f"./firstlight {context.command}"}
    played = playbooks.run_playbook(
        context,
        "drivers",
        "install",
        hosts,
        lambda host: {**context.install_paths[host.name].ansible_vars(), **work[host.name].ansible_vars(), **again},
    )
    for host in hosts:
        if work[host.name].reboot:
            context.forget(host)
    changed = [host for host in hosts if host.name in played]
    probe.look(context, changed)
    changed = [host for host in changed if not context.has_failed(host.name)]
    playbooks.acquire_locks(context, "install", [host for host in changed if host.name not in context.locked])
    for host in changed:
        wrong = unproven(work[host.name], context.facts[host.name])
        if wrong is not None:
            context.fail(host.name, "install", wrong, time.monotonic() - started)
            continue
        result = played[host.name].model_copy(update={"text": work[host.name].named()})
        context.record(result)
        if result.changed:
            context.driver_changed.add(host.name)
    # What was planned for a driver that was to come now holds for the one that runs.
    plan.plan(context)


def record_untouched(context: RunContext) -> None:
    """The result of hosts on which no driver had to be touched, for a run that ends with the drivers."""
    for host in context.hosts():
        if "install" not in context.results[host.name]:
            context.record(
                PhaseResult(host=host.name, phase="install", status="skipped", text="drivers are as planned")
            )


def _needed(context: RunContext) -> Mapping[str, DriverWork]:
    """The work of hosts that have any; where it cannot be done the host fails."""
    found = {}
    for host in context.hosts():
        stack = context.plan.for_host(host.name).stack if context.plan else None
        if stack is None:
            continue
        try:
            work = driver_work(host, context.facts[host.name], stack)
            if work.needed and not context.install_paths[host.name].root:
                raise InstallError(
                    f"host `{host.name}` wants {work.named()}, and installing does not act as root there",
                    hint="set `ansible_become: true` for it, or have it installed and run the same command again",
                )
        except FirstlightError as error:
            context.fail(host.name, "install", error)
            continue
        if work.needed:
            context.run.event("drivers", host=host.name, phase="install", work=work.named(), reboot=work.reboot)
            found[host.name] = work
    return found


def _is_planned(version: str | None, part: Mapping[str, Any]) -> bool:
    """Whether a version is the planned one, or lies within the plan's bounds where the source had another."""
    if version is None or version == part["version"]:
        return version is not None
    least, below = part.get("at_least"), part.get("below")
    return bool(least and below) and numbers(least) <= numbers(version) < numbers(below)


def unproven(work: DriverWork, facts: HostFacts) -> InstallError | None:
    """What a new look at the host does not show of the work; None when all is there."""
    nvidia = facts.nvidia
    seen = {
        "driver": (work.driver, nvidia.driver_version if nvidia else None),
        "fabric manager": (work.fabric_manager, nvidia.fabric_manager_version if nvidia else None),
    }
    for name, (part, version) in seen.items():
        if part is not None and not _is_planned(version, part):
            said = f" ({nvidia.smi_error})" if nvidia and nvidia.smi_error else ""
            return InstallError(
                f"host `{facts.host}`: {name} {part['version']} was installed, {version or 'none'} is what runs{said}",
                hint="see what the host's own log says of it: journalctl -k -b | grep -i -E 'nvidia|nvrm'",
            )
    pair = (nvidia.driver_version, nvidia.fabric_manager_version) if nvidia else (None, None)
    if work.fabric_manager is not None and pair[0] != pair[1]:
        return InstallError(
            f"host `{facts.host}`: driver {pair[0]} runs beside fabric manager {pair[1]}, and both must be of one version",
            hint="name a version that the package source has of both, as in `firstlight_driver: ==580.95.05`",
        )
    if work.cuda_compat and not has_compat(facts, work.cuda_compat["folder"]):
        return InstallError(
            f"host `{facts.host}`: {work.named()} were installed, and {work.cuda_compat['folder']}/libcuda.so.1 is not there",
            hint=f"see what the package holds: dpkg -L or rpm -ql {work.cuda_compat['packages'][0]}",
        )
    return None
