"""The rooms that only look or fetch, as steps of a walk: probe, plan, stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from provision import desired as desired_state
from provision.errors import FirstlightError, NoStackError
from provision.models.facts import HostFacts
from provision.models.records import RoomResult
from provision.models.settings import Host
from provision.models.stack import Resolution
from provision.models.staged import Staged
from provision.pipeline.context import Walk

if TYPE_CHECKING:
    from provision.fit import Shape

PROBE_DEADLINE_S = 40.0
MAX_CLOCK_SKEW_S = 300.0
"""Beyond this a certificate that is fresh today may look not yet valid, and times in logs mislead."""


def probe(walk: Walk) -> None:
    """Find out what each host is."""
    look(walk, walk.hosts())


def look(walk: Walk, hosts: Sequence[Host]) -> None:
    """Probe hosts; what was known of them before is replaced."""
    from provision.probe import probe as look_at  # noqa: PLC0415 - only commands that probe pay for it

    def call(host: Host) -> HostFacts:
        return look_at(host, walk.session(host), prefix=host.settings.prefix)

    for name, facts in walk.each("probe", hosts, call, deadline_s=PROBE_DEADLINE_S).items():
        walk.facts[name] = facts
        walk.places[name] = desired_state.place_of(walk.host(name), facts)
        walk.run.write(f"facts/{name}.json", facts)
        walk.record(_probed(name, facts))


def _probed(name: str, facts: HostFacts) -> RoomResult:
    skew, seconds = facts.clock_skew_s, facts.seconds or 0.0
    if skew is None or abs(skew) <= MAX_CLOCK_SKEW_S:
        return RoomResult(host=name, room="probe", status="ok", seconds=seconds)
    return RoomResult(
        host=name,
        room="probe",
        status="warn",
        seconds=seconds,
        text=f"the clock of host `{name}` is {skew:+.0f} s from the controller's",
        hint="set it (systemd-timesyncd or chrony): certificates and the times in logs depend on it",
    )


def plan(walk: Walk) -> None:
    """Choose a Stack for each class of hosts."""
    from provision.resolve import plan as resolve  # noqa: PLC0415 - only commands that plan pay for it

    hosts = walk.hosts()
    if not hosts:
        return
    started = time.monotonic()
    shapes = _shapes(walk, hosts)
    hosts = walk.hosts()
    walk.plan = resolve(
        {host.name: walk.facts[host.name] for host in hosts},
        {host.name: host.settings for host in hosts},
        become={host.name for host in hosts if host.connection.become},
        shapes=shapes,
    )
    walk.run.write("plan.json", walk.plan)
    seconds = round(time.monotonic() - started, 3)
    for host in hosts:
        resolution = walk.plan.for_host(host.name)
        if resolution.stack is None:
            walk.fail(host.name, "plan", _refusal(host.name, resolution), seconds)
        else:
            walk.record(RoomResult(host=host.name, room="plan", status="ok", seconds=seconds))


def _shapes(walk: Walk, hosts: Sequence[Host]) -> dict[str, Shape]:
    """What each model takes, by the name the settings give it; hosts whose model cannot be known fail here."""
    if all(host.settings.model == "builtin" for host in hosts):
        return {}
    from provision.artifacts import describe  # noqa: PLC0415 - the built-in model needs none of it

    shapes: dict[str, Shape] = {}
    for host in hosts:
        model = host.settings.model
        if model == "builtin" or model in shapes or not host.settings.serve or host.settings.vllm == "none":
            continue
        try:
            shape = describe(host.settings, walk.wheelhouse(), refresh=walk.refresh and walk.client is None)
        except FirstlightError as error:
            walk.fail(host.name, "plan", error)
            continue
        if shape is not None:
            shapes[model] = shape
    return shapes


def _refusal(name: str, resolution: Resolution) -> NoStackError:
    """Why nothing fits a host, with the smallest change that would help."""
    rejected = [reason for reason in resolution.reasons if reason.verdict == "reject"]
    why = rejected[0].text if rejected else "no candidate is left"
    nearest = resolution.nearest.text if resolution.nearest else None
    return NoStackError(
        f"no Stack fits host `{name}`: {why}", hint=nearest or "see every rule's verdict: ./firstlight plan --explain"
    )


def stage(walk: Walk) -> None:
    """Lock each class's Stack and fetch its files; then say what each host is to be, and which are so already."""
    if walk.plan is None:
        return
    hosts = {host.name: host for host in walk.hosts()}
    silent = {name for name, answers in walk.sources.items() if answers is False}
    for resolution in walk.plan.classes:
        groups: dict[tuple[str, str], list[Host]] = {}
        for name in resolution.hosts:
            if name in hosts:
                # What a host without package sources lacks is its own affair; the lock is remembered between them.
                alone = name if name in silent else ""
                groups.setdefault((hosts[name].settings.model, alone), []).append(hosts[name])
        for members in groups.values():
            _stage_group(walk, resolution, members, silent=members[0].name in silent)


def _stage_group(walk: Walk, resolution: Resolution, members: Sequence[Host], *, silent: bool) -> None:
    from provision.artifacts import stage as lock_and_fetch  # noqa: PLC0415 - only commands that stage pay for it
    from provision.pipeline.forging import forge_of  # noqa: PLC0415 - only commands that stage pay for it

    started = time.monotonic()
    first = members[0]

    def told(what: str, done: int, total: int) -> None:
        for member in members:
            if total:
                walk.progress.bytes(member.name, done, total)
            else:
                walk.progress.note(member.name, what)

    try:
        staged: Staged = lock_and_fetch(
            resolution.model_copy(update={"hosts": tuple(member.name for member in members)}),
            first.settings,
            walk.facts[first.name],
            store=walk.wheelhouse(),
            client=walk.client,
            packager=forge_of(walk),
            run=walk.run,
            progress=told,
            refresh=walk.refresh,
            arrived=walk.ahead.arrived(members) if walk.ahead else None,
            dpkg_status=_dpkg_status(walk, first) if silent else None,
            deb_packages=desired_state.packages_of(resolution.stack, walk.facts[first.name])
            if silent and resolution.stack
            else (),
        )
    except FirstlightError as error:
        for member in members:
            walk.fail(member.name, "stage", error, time.monotonic() - started)
        return
    walk.run.write(f"stage/{first.name}.json", staged)
    tools = host_tools(walk.cache / "tools")
    seconds = round(time.monotonic() - started, 3)
    for member in members:
        walk.staged[member.name] = staged
        try:
            walk.desired[member.name] = desired_state.desire(member, walk.facts[member.name], staged, tools=tools)
        except FirstlightError as error:
            walk.fail(member.name, "stage", error, seconds)
        else:
            walk.record(RoomResult(host=member.name, room="stage", status="ok", seconds=seconds))


def host_tools(folder: Path) -> dict[str, Path]:
    """Programs for PREFIX/bin by their name there: the service's own, and the checks."""
    from provision.serve.tools import serve_tools  # noqa: PLC0415 - only commands that stage pay for it
    from provision.verification import build_zipapp  # noqa: PLC0415 - only commands that stage pay for it

    return {**serve_tools(folder), "verify.pyz": build_zipapp(folder / "verify.pyz")}


def _dpkg_status(walk: Walk, host: Host) -> str:
    """What the host's package manager has, by which the packages that it lacks are found."""
    return walk.session(host).read("/var/lib/dpkg/status").decode(errors="replace")
