"""The room `verify` as a step of a walk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from provision.core.models.facts import HostFacts
from provision.core.models.records import CheckRecord, RoomResult
from provision.core.models.settings import Host
from provision.fleet.ssh.channel import Channel
from provision.pipeline import playbooks
from provision.pipeline.context import Walk
from provision.pipeline.stage import desire_again
from provision.report.last_verify import verified_line
from provision.report.run_files import TOGETHER
from verify.kept import failed
from verify.records import FRAME, SERVING, Level

if TYPE_CHECKING:
    from provision.phases.verify.selection import Picked
    from provision.phases.verify.tool_output import Verified

LATE_S = 60.0
"""Beyond the time that a host is given: for its answer to come back."""


def verify(walk: Walk) -> None:
    """Prove that what was installed computes right, before it goes live; carry the last proof where nothing changed."""
    for host in walk.hosts():
        if host.name in walk.at_rest:
            installed = walk.facts[host.name].installed
            last = installed.last_verify if installed else None
            text = f"nothing changed since it was {verified_line(last, walk.facts[host.name].probed_at)}"
            walk.record(RoomResult(host=host.name, room="verify", status="skipped", text=text))
    check(walk, walk.working(), level="standard", serve_follows=True)


def check(
    walk: Walk,
    hosts: Sequence[Host],
    *,
    level: Level,
    drain: bool = False,
    soak_minutes: float | None = None,
    meet: bool = False,
    picked: Picked | None = None,
    serve_follows: bool = False,
) -> None:
    """Run the checks on hosts, at once on all of them, and compare what the hosts say.

    With `drain` what serves there is stopped meanwhile; with `soak_minutes` a soak of that length takes their place.
    With `meet` the hosts are tried together as well. `picked` says which checks run where not all of the level do.
    With `serve_follows` what serves now is not checked: it is replaced, or started anew, after the checks.
    """
    if not hosts:
        return
    from provision.phases.verify.run_checks import time_limit_s  # noqa: PLC0415 - only walks that verify pay for it
    from provision.phases.verify.run_checks import verify as run_checks  # noqa: PLC0415 - only walks that verify pay for it
    from verify.fleet import compare  # noqa: PLC0415 - only walks that verify pay for it

    started = time.monotonic()
    expectations = expected(walk, hosts)
    if serve_follows:
        expectations = {host.name: {**expectations.get(host.name, {}), "serve_follows": True} for host in hosts}
    # What failed more deeply runs as deeply again.
    deeper = serve_follows and any(standing(walk, host.name) for host in hosts)

    def call(host: Host) -> Verified:
        place, desired = walk.places[host.name], walk.desired.get(host.name)
        return run_checks(
            walk.session(host),
            prefix=place.prefix,
            environment=desired.environment if desired else None,
            level=level,
            devices=device_count(walk.facts.get(host.name)),
            expect=expectations.get(host.name),
            root=place.root,
            drain=drain,
            soak_minutes=soak_minutes,
            picked=picked,
        )

    documents, torches = [], []
    devices = max((device_count(walk.facts.get(host.name)) for host in hosts), default=1)
    limit_s = time_limit_s("full" if deeper else level, devices, drain=drain, soak_minutes=soak_minutes, picked=picked)
    for name, verified in walk.each("verify", hosts, call, deadline_s=limit_s + LATE_S).items():
        walk.verified[name] = verified.document
        walk.run.write(f"verify/{name}.json", verified.document)
        if soak_minutes is None and not picked and not any(check.id == FRAME for check in verified.checks):
            path = f"{walk.places[name].prefix}/verify/last.json"
            walk.run.change("checks", host=name, path=path, changed=True, level=level, exit_code=verified.exit_code)
        if name in walk.staged:
            desire_again(walk, name, verified.document)
        decisive = [check for check in verified.checks if not (serve_follows and check.family == SERVING)]
        walk.record(judged(name, decisive, time.monotonic() - started))
        documents.append(verified.document)
        torches += [walk.host(name)] if verified.document.get("torch") else []
    together = compare(documents)
    if meet and len(torches) > 1:
        together.append(tried_together(walk, torches))
    if together:
        walk.run.write(TOGETHER, {"checks": together})


def standing(walk: Walk, name: str) -> dict[str, Level]:
    """The checks that stand as failed on a host, each with the deepest level at which they did: by this run, else as it was found."""
    facts = walk.facts.get(name)
    installed = facts.installed if facts else None
    return failed(walk.verified.get(name) or (installed.last_verify if installed else None) or {})


def refute(walk: Walk, names: Sequence[str]) -> None:
    """Run the checks of what serves once more that failed before, where it has been started anew and proven."""
    hosts = [walk.host(name) for name in names if any(id_.startswith(f"{SERVING}.") for id_ in standing(walk, name))]
    if not hosts:
        return
    from provision.phases.verify.run_checks import time_limit_s  # noqa: PLC0415 - only hosts that failed pay for it
    from provision.phases.verify.run_checks import verify as run_checks  # noqa: PLC0415 - only hosts that failed pay for it

    started = time.monotonic()
    devices = max((device_count(walk.facts.get(host.name)) for host in hosts), default=1)
    limit_s = time_limit_s("full", devices)

    def call(host: Host) -> Verified:
        place = walk.places[host.name]
        walk.progress.note(host.name, "checks again what failed")
        return run_checks(
            walk.session(host),
            prefix=place.prefix,
            level="full",
            devices=devices,
            expect=expected(walk, [host]).get(host.name),
            root=place.root,
            refute=True,
        )

    for name, verified in walk.each("verify", hosts, call, deadline_s=limit_s + LATE_S).items():
        walk.verified[name] = verified.document
        walk.run.write(f"verify/{name}.json", verified.document)
        walk.record(judged(name, verified.checks, time.monotonic() - started))


def expected(walk: Walk, hosts: Sequence[Host]) -> dict[str, dict[str, Any]]:
    """What each host's checks compare with: the Stack of this walk where there is one, and the GPUs that should be there."""
    from provision.phases.verify.expected_gpus import expected_gpus  # noqa: PLC0415 - only walks that verify pay for it
    from provision.report.difference import last_green  # noqa: PLC0415 - only walks that verify pay for it

    found: dict[str, dict[str, Any]] = {
        host.name: {"stack": walk.desired[host.name].stack} for host in hosts if host.name in walk.desired
    }
    with_cards = {host.name for host in hosts if (facts := walk.facts.get(host.name)) and facts.pci_gpus}
    with_cards |= {name for name, expect in found.items() if expect["stack"]["torch"]["variant"] != "cpu"}
    before = last_green(walk.run.folder.parent, walk.run.name, with_cards) if with_cards else {}
    for name in with_cards & walk.facts.keys():
        then, expect = before.get(name), found.setdefault(name, {})
        torch = expect["stack"]["torch"]["variant"] if "stack" in expect else None
        torch = torch or (then.stack.torch.variant if then and then.stack else "cpu")
        gpus = expected_gpus(
            walk.facts[name],
            walk.host(name).settings,
            torch,
            then.facts if then else None,
            then.run if then else None,
        )
        expect |= {"gpus": gpus} if gpus else {}
    return found


def device_count(facts: HostFacts | None) -> int:
    """How many devices the checks will find on a host at most: its GPUs, else its CPUs as one."""
    if facts is None:
        return 1
    drivers = [vendor.gpus for vendor in (facts.nvidia, facts.amd) if vendor]
    return max(1, len(facts.pci_gpus), sum(map(len, drivers)))


def tried_together(walk: Walk, hosts: Sequence[Host]) -> dict[str, Any]:
    """Let hosts find and reach one another, and exchange numbers: the record of it. Nothing is set on them."""
    from provision.fleet.multihost import meet  # noqa: PLC0415 - only walks that try hosts together pay for it

    for host in hosts:
        walk.progress.note(host.name, "meets the other hosts")
    return meet({host.name: partial(_part, walk, host) for host in hosts})


def _part(walk: Walk, host: Host) -> Channel:
    """Start a host's part, in the environment that was checked."""
    from provision.phases.verify.run_checks import tool_command  # noqa: PLC0415 - only walks that verify pay for it

    place, desired = walk.places[host.name], walk.desired.get(host.name)
    environment = f"envs/{desired.environment}" if desired else "current"
    command = tool_command(place.prefix.rstrip("/"), environment, ["between"])
    return walk.session(host).open_channel(command, root=place.root)


def check_drained(walk: Walk, *, level: Level, meet: bool = False, picked: Picked | None = None) -> None:
    """Run the checks while nothing serves; whatever ends them, each service is started and proven again.

    Raises KeyboardInterrupt when the person ended it, after the services are back.
    """
    playbooks.take_hold(walk, "verify", walk.hosts())
    hosts = walk.hosts()
    try:
        check(walk, hosts, level=level, drain=True, meet=meet, picked=picked)
    except KeyboardInterrupt:
        bring_back(walk, hosts)
        raise
    finally:
        for host in hosts:
            walk.run.change(
                "drain", host=host.name, path=f"{walk.places[host.name].prefix}/run/drained.json", changed=True
            )


def bring_back(walk: Walk, hosts: Sequence[Host]) -> None:
    """Have each service started and proven that an interruption left stopped."""
    from provision.phases.verify.run_checks import DRAIN_S, resume  # noqa: PLC0415 - only after an interruption

    def call(host: Host) -> tuple[bool, str]:
        place = walk.places[host.name]
        walk.progress.note(host.name, "interrupted: starting the service again")
        return resume(walk.session(host), prefix=place.prefix, root=place.root)

    for name, (is_back, text) in walk.each("verify", hosts, call, deadline_s=DRAIN_S).items():
        walk.run.event("resumed", host=name, room="verify", text=text)
        if not is_back:
            result = RoomResult(host=name, room="verify", status="failed", text=text, hint="./firstlight serve")
            walk.reject(result)


def judged(name: str, checks: Sequence[CheckRecord], seconds: float) -> RoomResult:
    """One result of all checks: the worst one speaks."""
    order = ("error", "fail", "warn")
    worst = next((check for status in order for check in checks if check.status == status), None)
    if worst is None:
        return RoomResult(host=name, room="verify", status="ok", seconds=round(seconds, 3))
    return RoomResult(
        host=name,
        room="verify",
        status="warn" if worst.status == "warn" else "failed",
        seconds=round(seconds, 3),
        text=f"check `{worst.id}`: {worst.reason}",
        hint=worst.remedy,
    )
