"""The phase stage as a step of a run; after it each host is known as it is to be."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision.core.environment_folders import rebuilt
from provision.core.errors import FirstlightError
from provision.core.models.records import PhaseResult
from provision.core.models.settings import Host
from provision.core.models.stack import Resolution
from provision.core.models.staged import Staged
from provision.phases.serve.tools import serve_tools
from provision.phases.stage import stage as lock_and_fetch
from provision.phases.verify.tool import build_zipapp
from provision.pipeline import desired_state
from provision.pipeline.context import RunContext

if TYPE_CHECKING:
    from provision.phases.stage.extension_package import Packager


def stage(context: RunContext) -> None:
    """Lock each class's Stack and fetch its files; then say what each host is to be, and which are so already."""
    if context.plan is None:
        return
    hosts = {host.name: host for host in context.hosts()}
    silent = {name for name, answers in context.sources.items() if answers is False}
    for resolution in context.plan.classes:
        groups: dict[tuple[str, str], list[Host]] = {}
        for name in resolution.hosts:
            if name in hosts:
                # What a host without package sources lacks is its own affair; the lock is remembered between them.
                alone = name if name in silent else ""
                groups.setdefault((hosts[name].settings.model, alone), []).append(hosts[name])
        for members in groups.values():
            _stage_group(context, resolution, members, silent=members[0].name in silent)


def _stage_group(context: RunContext, resolution: Resolution, members: Sequence[Host], *, silent: bool) -> None:
    started = time.monotonic()
    first = members[0]

    def told(what: str, done: int, total: int) -> None:
        for member in members:
            if total:
                context.progress.bytes(member.name, done, total)
            else:
                context.progress.note(member.name, what)

    try:
        staged: Staged = lock_and_fetch(
            resolution.model_copy(update={"hosts": tuple(member.name for member in members)}),
            first.settings,
            context.facts[first.name],
            store=context.wheelhouse(),
            client=context.client,
            packager=_packager(context, resolution),
            run=context.run,
            progress=told,
            refresh=context.refresh,
            arrived=context.ahead.arrived(members) if context.ahead else None,
            dpkg_status=_dpkg_status(context, first) if silent else None,
            deb_packages=desired_state.packages_of(resolution.stack, context.facts[first.name])
            if silent and resolution.stack
            else (),
        )
    except FirstlightError as error:
        for member in members:
            context.fail(member.name, "stage", error, time.monotonic() - started)
        return
    context.run.write(f"stage/{first.name}.json", staged)
    tools = host_tools(context.cache / "tools")
    seconds = round(time.monotonic() - started, 3)
    for member in members:
        context.staged[member.name] = staged
        try:
            context.desired[member.name] = desired_state.desired_state_of(
                member, context.facts[member.name], staged, tools=tools
            )
        except FirstlightError as error:
            context.fail(member.name, "stage", error, seconds)
        else:
            text = rebuilt(context.desired[member.name].environment, context.facts[member.name].installed)
            context.record(PhaseResult(host=member.name, phase="stage", status="ok", seconds=seconds, text=text))


def _packager(context: RunContext, resolution: Resolution) -> Packager | None:
    """Who provides the packages that the candidates name; nobody where none does, for the forge costs its libraries."""
    stacks = [candidate.stack for candidate in resolution.candidates] + [resolution.stack]
    if not any(stack and stack.flash_attn.package for stack in stacks):
        return None
    from provision.pipeline.wheel_builds import forge_of  # noqa: PLC0415 - see above

    return forge_of(context)


def host_tools(folder: Path) -> dict[str, Path]:
    """Programs for PREFIX/bin by their name there: the service's own, and the checks."""
    return {**serve_tools(folder), "verify.pyz": build_zipapp(folder / "verify.pyz")}


def _dpkg_status(context: RunContext, host: Host) -> str:
    """What the host's package manager has, by which the packages that it lacks are found."""
    return context.session(host).read("/var/lib/dpkg/status").decode(errors="replace")


def recompute_desired(context: RunContext, name: str, verified: Mapping[str, Any]) -> None:
    """What a host is to be where its checks have said other of it than was known when it was staged.

    Raises InventoryError as the first time.
    """
    installed = context.facts[name].installed
    known = installed.last_verify if installed else None
    if desired_state.peer_writes_arrive(verified, known) == desired_state.peer_writes_arrive(known):
        return
    context.desired[name] = desired_state.desired_state_of(
        context.host(name),
        context.facts[name],
        context.staged[name],
        tools=host_tools(context.cache / "tools"),
        verified=verified,
    )
