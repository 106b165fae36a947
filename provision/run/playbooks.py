"""How phases change hosts: by playbooks, on hosts that the run has locked."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provision.core.errors import InstallError
from provision.core.files import write_atomically
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseName, PhaseResult
from provision.core.run_folder import HOSTS_FILE
from provision.fleet.locks import HostLock
from provision.phases.install.drivers import driver_work
from provision.phases.install.host_results import install, write_hosts_file
from provision.phases.install.hosts_file import Target
from provision.phases.stage.image import image_id
from provision.report.history.runs import document, names
from provision.run.context import RunContext
from provision.run.results import ProbedHosts, StagedHosts

LOCK_DEADLINE_S = 60.0
INSTALLING = frozenset({"drivers", "install", "serve"})
"""Playbooks whose variables are those of the installation, which hosts.yml of a run holds for playbooks by hand."""


@dataclass
class Played:
    """The hosts that playbooks of the installation ran for, with their variables, by name."""

    targets: dict[str, Target] = field(default_factory=dict)


def acquire_locks(context: RunContext, probed: ProbedHosts, phase: PhaseName, hosts: Sequence[Host]) -> list[Host]:
    """Lock hosts until the run ends, and return those that are locked; a host that another run has locked fails.

    Hosts that the run has locked already are not locked again.
    """

    def call(host: Host) -> None:
        paths = probed.install_paths[host.name]
        context.sessions.locks[host.name] = HostLock(
            context.session(host), prefix=paths.prefix, run=context.run.name, root=paths.root
        )

    new = [host for host in hosts if host.name not in context.sessions.locks]
    for name in context.run_on_hosts(phase, new, call, deadline_s=LOCK_DEADLINE_S):
        context.run.event("locked", host=name, phase=phase)
        context.run.change("lock", host=name, path=f"{probed.install_paths[name].prefix}/lock", changed=True)
    return [host for host in hosts if host.name in context.sessions.locks]


def renew_locks(context: RunContext, phase: PhaseName, hosts: Sequence[Host]) -> list[Host]:
    """Return the hosts that the run may still change; those that it never locked are among them.

    A host that was restarted, or whose connection broke, has released its lock: it is locked again. One that another run has locked
    since, or that cannot be reached, fails.
    """
    with_lock = [host for host in hosts if host.name in context.sessions.locks]
    renewed = context.run_on_hosts(
        phase, with_lock, lambda host: context.sessions.locks[host.name].renew(), deadline_s=LOCK_DEADLINE_S
    )
    for name in (name for name, was_lost in renewed.items() if was_lost):
        context.run.event("locked", host=name, phase=phase)
    return [host for host in hosts if host.name in renewed or host.name not in context.sessions.locks]


def in_rounds(hosts: Sequence[Host]) -> list[list[Host]]:
    """Return hosts in rounds, in each of which a machine has one of its services: what belongs to a machine is never changed, or measured, twice at once."""
    rounds: list[dict[str, Host]] = []
    for host in hosts:
        free = next((one for one in rounds if host.machine not in one), None)
        if free is None:
            rounds.append(free := {})
        free[host.machine] = host
    return [[*one.values()] for one in rounds]


def run_playbook(
    context: RunContext,
    probed: ProbedHosts,
    playbook: str,
    hosts: Sequence[Host],
    variables: Callable[[Host], Mapping[str, Any]] = lambda _: {},
    *,
    phase: PhaseName = "serve",
    tags: Sequence[str] = (),
) -> dict[str, PhaseResult]:
    """Run a playbook on hosts, record failures, and return the results of the hosts where it succeeded.

    The playbook is not run when there is no host. Services of one machine get it one after another.

    Args:
        variables: Returns the variables of a host besides those of its installation paths.
        phase: The phase that its results are of.
        tags: Only tasks with one of these tags run; all when empty.

    Raises:
        KeyboardInterrupt: The run was interrupted.
    """
    succeeded: dict[str, PhaseResult] = {}
    for each in in_rounds(hosts):
        targets = [
            Target(host, {**probed.install_paths[host.name].ansible_vars(), **variables(host)})
            for host in renew_locks(context, phase, each)
        ]
        if not targets:
            continue
        if playbook in INSTALLING:
            context.state(Played).targets |= {target.host.name: target for target in targets}
        command, note = context.options.command, context.progress.note
        results = install(context.run, targets, playbook=playbook, command=command, tags=tags, progress=note)
        for name, found in results.items():
            result = found.model_copy(update={"phase": phase})
            context.run.event("playbook", host=name, phase=phase, playbook=playbook, status=result.status)
            if result.status in ("ok", "warn"):
                succeeded[name] = result
            else:
                context.reject(result)
        if any(result.status == "interrupted" for result in results.values()):
            raise KeyboardInterrupt
    return succeeded


def write_inventory(context: RunContext) -> None:
    """Write hosts.yml: the installation of the run's hosts, or where it installed nothing what the run before it has.

    A run that ends with staged files writes what is planned, with the files that playbooks by hand send.
    """
    targets, result = context.state(Played).targets, context.result
    installs = "install" in context.outcomes.entered
    if isinstance(result, StagedHosts) and not installs and (staged := [*_staged_targets(context, result)]):
        write_hosts_file(context.run, staged, HOSTS_FILE)
        return
    if not targets and _take_over_inventory(context):
        return
    if not targets and not (isinstance(result, StagedHosts) and installs):
        return
    desired = result.desired if isinstance(result, StagedHosts) else {}
    planned = {name: Target(context.host(name), one.ansible_vars()) for name, one in desired.items()}
    write_hosts_file(context.run, [*(planned | targets).values()], HOSTS_FILE)


def _staged_targets(context: RunContext, staged: StagedHosts) -> Iterator[Target]:
    """Yield the hosts with all that is planned for them; one whose drivers cannot be installed is left out."""
    for name, files in staged.staged.items():
        if name not in staged.desired:
            continue
        host, desired = context.host(name), staged.desired[name]
        try:
            drivers = driver_work(host, staged.facts[name], files.stack).ansible_vars()
        except InstallError as error:
            context.run.event("not planned", host=name, phase="stage", text=error.text)
            continue
        # `makes` is what exists on the host when a file is not needed any more: of an image, its folder in the storage of podman.
        environment = f"{desired.paths.prefix}/envs/{desired.environment}/.complete"
        model = f"{desired.paths.prefix}/models/{desired.model.name if desired.model else ''}"
        image = f"/var/lib/containers/storage/overlay-images/{image_id(desired.image) if desired.image else ''}"
        to_send = [
            {
                "name": file.name,
                "path": file.path,
                "size": file.size,
                "makes": {"model": f"{model}/{file.name}", "image": image}.get(file.kind, environment),
            }
            for file in files.files
            if file.path
        ]
        yield Target(host, {**drivers, **desired.ansible_vars(), "firstlight_files": to_send})


def _take_over_inventory(context: RunContext) -> bool:
    """Copy hosts.yml of the newest run of the same inventory that has one, and return whether there is one."""
    run = context.run
    for name in names(run.logs):
        earlier = run.logs / name / HOSTS_FILE
        # Runs of other accounts may be here, whose inventories these alone may read.
        if (
            os.access(earlier, os.R_OK)
            and document(run.logs / name / "inventory.json").get("source") == context.inventory.source
        ):
            text = earlier.read_text(encoding="utf-8")
            text = text.replace(str(earlier), str(run.path(HOSTS_FILE)), 1)
            write_atomically(run.path(HOSTS_FILE), text, mode=0o600)
            return True
    return False


def added_to_earlier(
    context: RunContext, played: PhaseResult, text: str, seconds: float, *, phase: PhaseName = "serve"
) -> PhaseResult:
    """Return the result of a host; that of the phase itself, such as of its own service, is kept with it."""
    earlier = context.outcomes.results.get(played.host, {}).get(phase)
    if earlier is None:
        return played.model_copy(update={"phase": phase, "text": text, "seconds": round(seconds, 3)})
    return earlier.model_copy(
        update={
            "status": "warn" if "warn" in (earlier.status, played.status) else earlier.status,
            "hint": earlier.hint or played.hint,
            "text": f"{earlier.text}; {text}" if earlier.text else text,
            "changed": earlier.changed or played.changed,
            "seconds": round(earlier.seconds + seconds, 3),
        }
    )
