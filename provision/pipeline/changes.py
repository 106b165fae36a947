"""The rooms that change hosts, as steps of a walk: install, serve. Nothing goes live before it was checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from provision.desired import Desired
from provision.errors import Exit, FirstlightError, InstallError
from provision.hold import hold
from provision.models.facts import HostFacts
from provision.models.records import RoomName, RoomResult, ServeRecord
from provision.models.settings import Host
from provision.models.staged import StagedFile
from provision.pipeline.context import Walk

HOLD_DEADLINE_S = 60.0
SEND_DEADLINE_S = 4 * 3600.0
PROVE_DEADLINE_S = 3600.0
GIB = 2**30


def settle(walk: Walk) -> None:
    """Find the hosts that are in the desired state already: they are left alone."""
    for host in walk.hosts():
        desired, facts = walk.desired.get(host.name), walk.facts[host.name]
        if desired is not None and host.name not in walk.brought and at_rest(desired, facts):
            walk.at_rest.add(host.name)


def at_rest(desired: Desired, facts: HostFacts) -> bool:
    """Whether a probe showed just what is desired: state, files of ours, a passed verification, a running service."""
    installed = facts.installed
    if installed is None or installed.state != desired.state or installed.tampered:
        return False
    if "installed.tampered" in facts.unknown:
        return False
    if installed.current != desired.environment or desired.environment not in installed.environments:
        return False
    if (installed.last_verify or {}).get("status") not in ("ok", "skip", "warn"):
        return False
    return desired.service.supervisor == "none" or installed.service == "active"


def install(walk: Walk) -> None:
    """Send what is missing and build the environment beside the live one; what serves goes on serving."""
    for host in walk.hosts():
        if host.name in walk.at_rest:
            text = "in the desired state already"
            walk.record(RoomResult(host=host.name, room="install", status="skipped", text=text))
    take_hold(walk, "install", walk.working())
    if walk.ahead is not None:
        walk.ahead.finish()
    _send(walk)
    if walk.early is not None:
        walk.early.join()
    for result in play(walk, "install", "install", walk.working(), walk.variables).values():
        walk.record(result.model_copy(update={"changed": result.changed or result.host in walk.brought}))


def take_hold(walk: Walk, room: RoomName, hosts: Sequence[Host]) -> None:
    """Hold every host until the walk ends; one that another run holds fails here."""

    def call(host: Host) -> ExitStack:
        place = walk.places[host.name]
        held = ExitStack()
        held.enter_context(hold(walk.session(host), prefix=place.prefix, run=walk.run.name, root=place.root))
        return held

    new = [host for host in hosts if host.name not in walk.held]
    for name, held in walk.each(room, new, call, deadline_s=HOLD_DEADLINE_S).items():
        walk.held.add(name)
        walk.run.event("held", host=name, room=room)
        walk.run.change("lock", host=name, path=f"{walk.places[name].prefix}/lock", changed=True)
        walk.stack.enter_context(held)


def _send(walk: Walk) -> None:
    from provision.artifacts import disk_needed  # noqa: PLC0415 - only walks that send pay for it

    for host in walk.working():
        try:
            need = disk_needed(walk.staged[host.name])
            require_room(
                walk.facts[host.name],
                walk.desired[host.name],
                incoming=need.incoming,
                prefix=need.prefix,
                moved=need.moved,
            )
        except FirstlightError as error:
            walk.fail(host.name, "install", error)

    def call(host: Host) -> None:
        files = missing_files(walk.desired[host.name], walk.facts[host.name], walk.staged[host.name].files)
        total, done = sum(file.size for file in files), 0

        def moved(count: int) -> None:
            nonlocal done
            done += count
            walk.progress.bytes(host.name, done, total)

        report = walk.session(host).send(files, walk.desired[host.name].place.incoming, progress=moved)
        walk.run.event(
            "sent", host=host.name, room="install", bytes=report.bytes_sent, seconds=round(report.seconds, 3)
        )

    walk.each("install", walk.working(), call, deadline_s=SEND_DEADLINE_S)


def missing_files(desired: Desired, facts: HostFacts, files: Sequence[StagedFile]) -> list[StagedFile]:
    """What has to travel: an environment or a model that is on the host already needs none of its files."""
    installed = facts.installed
    there = installed is not None and desired.environment in installed.environments
    state = (installed.state if installed else None) or {}
    has_model = desired.model is None or state.get("model") == desired.model.name
    unneeded = {"wheel", "interpreter", "tool"} if there else set()
    if has_model:
        unneeded.add("model")
    return [file for file in files if file.kind not in unneeded]


def require_room(facts: HostFacts, desired: Desired, *, incoming: int, prefix: int, moved: int = 0) -> None:
    """Refuse before anything is sent when the disks cannot hold it; sizes in bytes. `moved` of both needs room once on one disk.

    Raises InstallError with the disk, what is needed there and what is free.
    """
    installed = facts.installed
    if installed is not None and desired.environment in installed.environments:
        return
    needed: dict[str, int] = {}
    free: dict[str, int] = {}
    for path, size in ((desired.place.incoming, incoming), (desired.place.prefix, prefix)):
        disk = facts.disk_of(path)
        if disk is not None and disk.free is not None:
            name = disk.mount or disk.path
            needed[name] = needed[name] + size - moved if name in needed else size
            free[name] = disk.free
    for name, size in needed.items():
        if free[name] < size:
            raise InstallError(
                f"host `{facts.host}`: {size / GIB:.1f} GiB are needed on `{name}`, {free[name] / GIB:.1f} GiB are free",
                hint="free space there, or set firstlight_prefix to a folder on a larger disk",
            )


def play(
    walk: Walk,
    playbook: str,
    room: RoomName,
    hosts: Sequence[Host],
    variables: Callable[[Host], Mapping[str, Any]],
    *,
    tags: Sequence[str] = (),
) -> dict[str, RoomResult]:
    """Run a playbook on hosts, or the part of it that has the tags; what failed is recorded under the room.

    Raises KeyboardInterrupt when the person ended it.
    """
    from provision.install import Target  # noqa: PLC0415 - Ansible is needed only where something changes
    from provision.install import install as run_playbook  # noqa: PLC0415 - Ansible is needed only where something changes

    targets = [Target(host, variables(host)) for host in hosts]
    results = (
        run_playbook(walk.run, targets, playbook=playbook, tags=tags, progress=walk.progress.note) if targets else {}
    )
    for name, result in results.items():
        walk.run.event("playbook", host=name, room=room, playbook=playbook, status=result.status)
        if result.status not in ("ok", "warn"):
            walk.reject(result.model_copy(update={"room": room}))
    if any(result.status == "interrupted" for result in results.values()):
        raise KeyboardInterrupt
    return {name: result for name, result in results.items() if result.status in ("ok", "warn")}


def serve(walk: Walk) -> None:
    """Switch to the verified environment, start the service, and prove that it answers right."""
    started = time.monotonic()
    resting = [host for host in walk.hosts() if host.name in walk.at_rest]
    played = play(walk, "serve", "serve", walk.working(), walk.variables)
    unproven = {host.name for host in resting if not proven(walk.desired[host.name], walk.facts[host.name])}
    for host in resting:
        if host.name not in unproven:
            _carry(walk, host.name)
            text = "serves since its last proof" if serves(walk, host) else "nothing to serve"
            walk.record(RoomResult(host=host.name, room="serve", status="skipped", text=text))
    for name, result in played.items():
        if not serves(walk, walk.host(name)):
            walk.record(result.model_copy(update={"room": "serve"}))
    asked = [host for host in walk.hosts() if serves(walk, host) and (host.name in played or host.name in unproven)]
    requests = {host.name: walk.desired[host.name].state["readiness"] for host in asked}
    prove(walk, asked, requests, played, started)


def _carry(walk: Walk, name: str) -> None:
    """The last proof stands for a service that has run ever since: it goes into this run's files too."""
    installed = walk.facts[name].installed
    record = ((installed.last_ready if installed else None) or {}).get("record")
    if record is not None:
        walk.run.write(f"serve/{name}.json", record)


def serves(walk: Walk, host: Host) -> bool:
    """Whether a host is to serve at all."""
    return walk.desired[host.name].service.supervisor != "none"


def proven(desired: Desired, facts: HostFacts) -> bool:
    """Whether the service process that runs now is the one that the last proof was of."""
    if desired.service.supervisor == "none":
        return True
    installed = facts.installed
    ready = (installed.last_ready if installed else None) or {}
    process = (installed.service_pid if installed else None, facts.os.boot_id)
    return bool(ready) and (ready.get("main_pid"), ready.get("boot_id")) == process


def prove(
    walk: Walk,
    hosts: Sequence[Host],
    requests: Mapping[str, dict[str, Any]],
    played: Mapping[str, RoomResult],
    started: float,
) -> None:
    """Wait for each service and have it answer; what is not right fails the host."""
    from provision.serve.room import prove as prove_service  # noqa: PLC0415 - only walks that serve pay for it

    def call(host: Host) -> ServeRecord:
        place = walk.places[host.name]
        return prove_service(
            walk.session(host),
            prefix=place.prefix,
            root=place.root,
            request=requests[host.name],
            deadline_s=PROVE_DEADLINE_S,
            progress=lambda text: walk.progress.note(host.name, text),
        )

    for name, record in walk.each("serve", hosts, call, deadline_s=PROVE_DEADLINE_S + 60).items():
        walk.run.write(f"serve/{name}.json", record)
        if record.ready:
            walk.run.change("proof", host=name, path=f"{walk.places[name].prefix}/verify/ready.json", changed=True)
        if not record.ready:
            walk.failures.add(Exit.RED)
        walk.record(
            RoomResult(
                host=name,
                room="serve",
                status="ok" if record.ready else "failed",
                seconds=round(time.monotonic() - started, 3),
                changed=name in played and played[name].changed,
                text=record.text,
                hint=None if record.ready else "its log says more; to go back: ./firstlight rollback",
                evidence=record.evidence,
            )
        )
