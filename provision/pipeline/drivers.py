"""Drivers, as a step of a walk: brought before anything is fetched, restarted for with consent, proven by a new look."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from provision.catalog.versions import numbers
from provision.core.errors import FirstlightError, InstallError
from provision.core.models.facts import HostFacts
from provision.core.models.records import RoomResult
from provision.phases.install.drivers import DriverWork, driver_work, has_compat
from provision.pipeline import plan, playbooks, probe
from provision.pipeline.context import Walk


def bring(walk: Walk) -> None:
    """Have every host's drivers as planned; a host that needs a restart nobody consented to ends here, with the next command."""
    work = _needed(walk)
    if not work:
        return
    started = time.monotonic()
    playbooks.take_hold(walk, "install", [host for host in walk.hosts() if host.name in work])
    hosts = [host for host in walk.hosts() if host.name in work]
    again = {"firstlight_again": f"./firstlight {walk.command}"}
    played = playbooks.play(
        walk,
        "drivers",
        "install",
        hosts,
        lambda host: {**walk.places[host.name].ansible_vars(), **work[host.name].ansible_vars(), **again},
    )
    for host in hosts:
        if work[host.name].reboot:
            walk.forget(host)
    changed = [host for host in hosts if host.name in played]
    probe.look(walk, changed)
    changed = [host for host in changed if not walk.has_failed(host.name)]
    playbooks.take_hold(walk, "install", [host for host in changed if host.name not in walk.held])
    for host in changed:
        wrong = unproven(work[host.name], walk.facts[host.name])
        if wrong is not None:
            walk.fail(host.name, "install", wrong, time.monotonic() - started)
            continue
        result = played[host.name].model_copy(update={"text": work[host.name].named()})
        walk.record(result)
        if result.changed:
            walk.brought.add(host.name)
    # What was planned for a driver that was to come now holds for the one that runs.
    plan.plan(walk)


def say_rest(walk: Walk) -> None:
    """The result of hosts on which no driver had to be touched, for a walk that ends with the drivers."""
    for host in walk.hosts():
        if "install" not in walk.results[host.name]:
            walk.record(RoomResult(host=host.name, room="install", status="skipped", text="drivers are as planned"))


def _needed(walk: Walk) -> Mapping[str, DriverWork]:
    """The work of hosts that have any; where it cannot be done the host fails."""
    found = {}
    for host in walk.hosts():
        stack = walk.plan.for_host(host.name).stack if walk.plan else None
        if stack is None:
            continue
        try:
            work = driver_work(host, walk.facts[host.name], stack)
            if work.needed and not walk.places[host.name].root:
                raise InstallError(
                    f"host `{host.name}` wants {work.named()}, and installing does not act as root there",
                    hint="set `ansible_become: true` for it, or have it installed and run the same command again",
                )
        except FirstlightError as error:
            walk.fail(host.name, "install", error)
            continue
        if work.needed:
            walk.run.event("drivers", host=host.name, room="install", work=work.named(), reboot=work.reboot)
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
