"""The phase install as a step of a run: environments are built beside what is live, and nothing goes live here."""

from __future__ import annotations

from collections.abc import Sequence

from provision.core.damage import damaged_model_files
from provision.core.errors import FirstlightError, InstallError
from provision.core.formatting import size
from provision.core.models.facts import HostFacts
from provision.core.models.records import PhaseResult
from provision.core.models.settings import Host
from provision.core.models.staged import StagedFile
from provision.pipeline import playbooks
from provision.pipeline.context import RunContext
from provision.pipeline.desired_state import Desired

SEND_DEADLINE_S = 4 * 3600.0


def mark_up_to_date(context: RunContext) -> None:
    """Find the hosts that are in the desired state already: they are left alone."""
    for host in context.hosts():
        desired, facts = context.desired.get(host.name), context.facts[host.name]
        if desired is not None and host.name not in context.driver_changed and up_to_date(desired, facts):
            context.up_to_date.add(host.name)


def up_to_date(desired: Desired, facts: HostFacts) -> bool:
    """Whether a probe showed just what is desired: state, no drift, a passed verification, a running service."""
    installed = facts.installed
    if installed is None or installed.state != desired.state or installed.drift:
        return False
    if "installed.drift" in facts.unknown:
        return False
    if installed.current != desired.environment or desired.environment not in installed.environments:
        return False
    if (installed.last_verify or {}).get("status") not in ("ok", "skip", "warn"):
        return False
    return desired.service.supervisor == "none" or installed.service == "active"


def install(context: RunContext) -> None:
    """Send what is missing and build the environment beside the live one; what serves goes on serving."""
    for host in context.hosts():
        if host.name in context.up_to_date:
            text = "in the desired state already"
            context.record(PhaseResult(host=host.name, phase="install", status="skipped", text=text))
    playbooks.acquire_locks(context, "install", context.working())
    if context.ahead is not None:
        context.ahead.finish()
    _send(context)
    if context.early is not None:
        context.early.join()
    for result in playbooks.run_playbook(context, "install", "install", context.working(), context.variables).values():
        context.record(result.model_copy(update={"changed": result.changed or result.host in context.driver_changed}))


def _send(context: RunContext) -> None:
    from provision.phases.stage import disk_needed  # noqa: PLC0415 - only runs that send pay for it

    for host in context.working():
        try:
            need = disk_needed(context.staged[host.name])
            require_disk_space(
                context.facts[host.name],
                context.desired[host.name],
                incoming=need.incoming,
                prefix=need.prefix,
                moved=need.moved,
            )
        except FirstlightError as error:
            context.fail(host.name, "install", error)

    def call(host: Host) -> None:
        files = missing_files(context.desired[host.name], context.facts[host.name], context.staged[host.name].files)
        total, done = sum(file.size for file in files), 0

        def moved(count: int) -> None:
            nonlocal done
            done += count
            context.progress.bytes(host.name, done, total)

        report = context.session(host).send(files, context.desired[host.name].paths.incoming, progress=moved)
        context.run.event(
            "sent", host=host.name, phase="install", bytes=report.bytes_sent, seconds=round(report.seconds, 3)
        )

    context.run_on_hosts("install", context.working(), call, deadline_s=SEND_DEADLINE_S)


def missing_files(desired: Desired, facts: HostFacts, files: Sequence[StagedFile]) -> list[StagedFile]:
    """What has to travel: an environment that is on the host already needs none of its files, a model those that are damaged there."""
    installed = facts.installed
    there = installed is not None and desired.environment in installed.environments
    state = (installed.state if installed else None) or {}
    model = {file.name for file in files if file.kind == "model"}
    if installed is not None and desired.model is not None and state.get("model") == desired.model.name:
        folder = f"{installed.prefix.rstrip('/')}/models/{desired.model.name}"
        model = damaged_model_files(installed, folder, model)
    unneeded = {"wheel", "interpreter", "tool"} if there else set()
    return [file for file in files if file.kind not in unneeded and (file.kind != "model" or file.name in model)]


def require_disk_space(facts: HostFacts, desired: Desired, *, incoming: int, prefix: int, moved: int = 0) -> None:
    """Refuse before anything is sent when the disks cannot hold it; sizes in bytes. `moved` of both needs phase once on one disk.

    Raises InstallError with the disk, what is needed there and what is free.
    """
    installed = facts.installed
    if installed is not None and desired.environment in installed.environments:
        return
    needed: dict[str, int] = {}
    free: dict[str, int] = {}
    for path, wanted in ((desired.paths.incoming, incoming), (desired.paths.prefix, prefix)):
        disk = facts.disk_of(path)
        if disk is not None and disk.free is not None:
            name = disk.mount or disk.path
            needed[name] = needed[name] + wanted - moved if name in needed else wanted
            free[name] = disk.free
    for name, total in needed.items():
        if free[name] < total:
            raise InstallError(
                f"host `{facts.host}`: {size(total)} are needed on `{name}`, {size(free[name])} are free",
                hint="free space there, or set firstlight_prefix to a folder on a larger disk",
            )
