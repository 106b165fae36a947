"""The phase `stage`: locks and files of each class, and the desired state of each host."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provision.core import features
from provision.core.environment_folders import rebuild_reason
from provision.core.errors import FirstlightError
from provision.core.folders import tools_folder
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.core.models.stack import Resolution
from provision.core.models.staged import Staged
from provision.fleet.package_sources import dpkg_status
from provision.phases.stage import stage as lock_and_fetch
from provision.run import desired_state, spans
from provision.run.background import BackgroundUpload, package_sources
from provision.run.context import RunContext
from provision.run.desired_state import Desired, host_tools
from provision.run.host_changes import is_restart_only, is_up_to_date
from provision.run.results import PlannedHosts, StagedHosts


def stage(context: RunContext, planned: PlannedHosts) -> StagedHosts:
    """Lock the Stack of each class, fetch its files, and compute the desired state of each host."""
    hosts = {host.name: host for host in context.hosts()}
    silent = {name for name, answers in package_sources(context, planned).items() if answers is False}
    staged: dict[str, Staged] = {}
    for resolution in planned.plan.classes:
        groups: dict[tuple[str | None, ...], list[Host]] = {}
        for name in resolution.hosts:
            if name in hosts and not context.has_failed(name):
                # A host without package sources needs OS packages of its own; the lock is kept between the groups.
                alone = name if name in silent else ""
                key = (*hosts[name].model_key, hosts[name].settings.image, alone)
                groups.setdefault(key, []).append(hosts[name])
        for members in groups.values():
            files = _stage_group(context, planned, resolution, members, silent=members[0].name in silent)
            staged |= {member.name: files for member in members if files}
    return _with_desired_states(context, planned, staged)


def _stage_group(
    context: RunContext, planned: PlannedHosts, resolution: Resolution, members: Sequence[Host], *, silent: bool
) -> Staged | None:
    """Lock and fetch for hosts that get the same files; None, with the failure recorded, where that cannot be done."""
    started = time.monotonic()
    first, upload = members[0], context.background.tasks.get("upload")
    facts = planned.facts[first.name]

    def report(what: str, done: int, total: int) -> None:
        for member in members:
            if total:
                context.progress.bytes(member.name, done, total)
            else:
                context.progress.note(member.name, what)

    try:
        staged: Staged = lock_and_fetch(
            resolution.model_copy(update={"hosts": tuple(member.name for member in members)}),
            first.settings.model_copy(update={"source": first.source_of("model")}),
            facts,
            store=context.wheelhouse(),
            client=context.options.client,
            packager=features.first("packager", context.wheelhouse(), Path(context.inventory.source), planned.plan),
            others=[planned.facts[member.name] for member in members[1:]],
            run=context.run,
            progress=report,
            refresh=context.options.refresh,
            on_stored=upload.callback(members) if isinstance(upload, BackgroundUpload) else None,
            dpkg_status=dpkg_status(context.session(first)) if silent else None,
            deb_packages=desired_state.packages_of(resolution.stack, facts) if silent and resolution.stack else (),
        )
    except FirstlightError as error:
        for member in members:
            context.fail(member.name, "stage", error, time.monotonic() - started)
        return None
    context.run.write(f"stage/{first.name}.json", staged)
    seconds = round(time.monotonic() - started, 3)
    for member in members:
        context.record(PhaseResult(host=member.name, phase="stage", status="ok", seconds=seconds))
    return staged


def _with_desired_states(context: RunContext, planned: PlannedHosts, staged: Mapping[str, Staged]) -> StagedHosts:
    tools = host_tools(tools_folder(context.cache))
    desired: dict[str, Desired] = {}
    for name, files in staged.items():
        facts = planned.facts[name]
        try:
            state = desired_state.desired_state_of(context.host(name), facts, files, tools=tools)
            bundle = context.options.bundle
            if bundle is not None and not (facts.installed and facts.installed.current == state.environment):
                bundle.accept(context.host(name), context.run.folder.parent)
        except FirstlightError as error:
            context.fail(name, "stage", error, context.outcomes.results[name]["stage"].seconds)
            continue
        desired[name] = state
        if text := rebuild_reason(state.environment, facts.installed):
            context.record(context.outcomes.results[name]["stage"].model_copy(update={"text": text}))
    parts = {
        name: {"the environment": state.environment, "what is served": state.agreement}
        for name, state in desired.items()
    }
    spans.refuse_unequal(context, "stage", parts)
    spans.refuse_parts(context, "stage")
    kept = {name: state for name, state in desired.items() if name not in planned.driver_changed}
    current = frozenset(name for name, state in kept.items() if is_up_to_date(state, planned.facts[name]))
    up_to_date = spans.whole(context, current)
    alone = {name: state for name, state in kept.items() if context.host(name).span is None}
    restart_only = frozenset(name for name, state in alone.items() if is_restart_only(state, planned.facts[name]))
    return StagedHosts(
        **vars(planned), staged=staged, desired=desired, up_to_date=up_to_date, restart_only=restart_only
    )


def recompute_desired(context: RunContext, staged: StagedHosts, name: str, document: Mapping[str, Any]) -> Desired:
    """Recompute the desired state when the document of its newest checks has other results.

    Raises InventoryError where the settings do not fit the cards.
    """
    facts = staged.facts[name]
    earlier = facts.installed.last_verify if facts.installed else None
    if desired_state.peer_writes_arrive(document, earlier) == desired_state.peer_writes_arrive(earlier):
        return staged.desired[name]
    return desired_state.desired_state_of(
        context.host(name),
        facts,
        staged.staged[name],
        tools=host_tools(tools_folder(context.cache)),
        verified=document,
    )
