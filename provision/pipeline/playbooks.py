"""How steps change hosts: each is held first, by one run at a time, and then a playbook acts on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from provision.core.models.records import RoomName, RoomResult
from provision.core.models.settings import Host
from provision.fleet.locks import hold
from provision.pipeline.context import Walk

HOLD_DEADLINE_S = 60.0


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
    from provision.phases.install import Target  # noqa: PLC0415 - Ansible is needed only where something changes
    from provision.phases.install import install as run_playbook  # noqa: PLC0415 - Ansible is needed only where something changes

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
