"""The phase `install`: environments are built next to the live one; nothing goes live here."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from provision.core import features
from provision.core.errors import DamagedSourceError, FirstlightError, InstallError
from provision.core.formatting import format_bytes
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.phases.stage import DiskNeed, Store, disk_needed
from provision.report.run_files import TRANSFERS_FILE
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.desired_state import Desired
from provision.run.host_changes import missing_files
from provision.run.results import StagedHosts
from provision.run.sending import Sending, SentBytes

SEND_DEADLINE_S = 4 * 3600.0
SENT_BYTES_S = 1e6
"""Bytes a second for all hosts together, which are waited for beyond the limit: a host may wait for its turn."""


def install(context: RunContext, staged: StagedHosts) -> StagedHosts:
    """Send missing files and build the environment next to the live one, which goes on serving."""
    reasons = {
        **dict.fromkeys(staged.up_to_date, "in the desired state already"),
        **dict.fromkeys(staged.restart_only, "installed already: only the start of its service changes"),
    }
    for host in context.hosts():
        if text := reasons.get(host.name):
            context.record(PhaseResult(host=host.name, phase="install", status="skipped", text=text))
    # A lock whose host lost its power has left files there: releasing it removes them.
    left = {name for name, facts in staged.facts.items() if facts.installed and facts.installed.lock_is_left}
    hosts = [host for host in context.hosts() if host.name in left or host.name not in staged.up_to_date]
    playbooks.acquire_locks(context, staged, "install", hosts)
    write_sboms(context, staged)
    context.background.wait_for("upload")
    _send(context, staged)
    context.background.wait_for("packages")
    results = playbooks.run_playbook(
        context,
        staged,
        "install",
        building(context, staged),
        lambda host: staged.desired[host.name].ansible_vars(),
        phase="install",
    )
    for result in results.values():
        context.record(result.model_copy(update={"changed": result.changed or result.host in staged.driver_changed}))
    return staged


def changing(context: RunContext, staged: StagedHosts) -> list[Host]:
    """Return the hosts that are not in the desired state yet."""
    return [host for host in context.hosts() if host.name not in staged.up_to_date]


def building(context: RunContext, staged: StagedHosts) -> list[Host]:
    """Return the hosts on which something is installed, and checked then."""
    return [host for host in changing(context, staged) if host.name not in staged.restart_only]


def write_sboms(context: RunContext, staged: StagedHosts) -> None:
    """Record what the environments that are built in this run consist of."""
    built = {}
    for host in building(context, staged):
        installed = staged.facts[host.name].installed
        if installed is None or staged.desired[host.name].environment not in installed.environments:
            built[staged.staged[host.name].environment] = staged.staged[host.name]
    if not built:
        return
    from provision.phases.stage.sbom import FOLDER, write_sbom

    for files in built.values():
        write_sbom(files, context.run.path(FOLDER))


def _send(context: RunContext, staged: StagedHosts) -> None:
    files = {}
    taken: dict[str, Counter[str]] = defaultdict(Counter)
    for host in building(context, staged):
        facts, desired, planned = staged.facts[host.name], staged.desired[host.name], staged.staged[host.name]
        missing = missing_files(desired, facts, planned.files)
        try:
            # On this machine files are links into the cache.
            if host.connection.kind != "local" or any(file.kind == "wheel" for file in missing):
                need = disk_needed(planned, missing, facts.incoming)
                # Services of a machine share its disks, and no files.
                taken[host.machine].update(require_disk_space(facts, desired, need, taken[host.machine]))
            files[host.name] = missing
        except FirstlightError as error:
            context.fail(host.name, "install", error)
    if not (hosts := building(context, staged)):
        return
    sending: Sending = features.first("sending", context, staged, files) or Sending(context, staged, files)

    def call(host: Host) -> None:
        total, done = sum(file.size for file in files[host.name]), 0

        def report(count: int) -> None:
            nonlocal done
            done += count
            context.progress.bytes(host.name, done, total)

        try:
            sent = sending.send(host, report)
        except DamagedSourceError as error:
            Store(context.cache).distrust(Path(error.path))
            raise
        others = {"peer": sent.peer, "peer_bytes": sent.peer_bytes} if sent.peer else {}
        others |= {"own_bytes": sent.own_bytes} if sent.own_bytes else {}
        seconds = round(sent.seconds, 3)
        context.run.event("sent", host=host.name, phase="install", bytes=sent.bytes_sent, seconds=seconds, **others)
        context.progress.note(host.name, sent.by_source())

    deadline_s = SEND_DEADLINE_S + sum(file.size for host in hosts for file in files[host.name]) / SENT_BYTES_S
    try:
        context.run_on_hosts("install", hosts, call, deadline_s=deadline_s, cancel=sending.abandon)
    finally:
        sending.close()
        # of this step and, with batches, of those before
        context.run.write(TRANSFERS_FILE, context.state(SentBytes).transfers)


def require_disk_space(
    facts: HostFacts, desired: Desired, need: DiskNeed, taken: Mapping[str, int] = MappingProxyType({})
) -> dict[str, int]:
    """Check that the disks of a host can hold what is to be installed, and return how much that is, by mount.

    Args:
        taken: What other services of its machine are to get, by mount.

    Raises:
        InstallError: A disk is too small; with what is needed and what is free.
    """
    needed: dict[str, int] = {}
    free: dict[str, int] = {}
    for path, wanted in ((desired.paths.incoming, need.incoming), (desired.paths.prefix, need.prefix)):
        disk = facts.disk_of(path)
        if disk is not None and disk.free is not None:
            name = disk.mount or disk.path
            needed[name] = needed[name] + wanted - need.moved if name in needed else wanted
            free[name] = disk.free
    for name, total in needed.items():
        others = taken.get(name, 0)
        if free[name] < total + others:
            shared = f", of which other services get {format_bytes(others)}" if others else ""
            raise InstallError(
                f"host `{facts.host}`: {format_bytes(total)} are needed on `{name}`, {format_bytes(free[name])} are free{shared}",
                hint=f"free space there, such as what interrupted runs left in {desired.paths.incoming}, or set firstlight_prefix to a folder on a larger disk: docs/guides/upgrade.md says what moves",
            )
    return needed
