"""The phase `verify` as a step of a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from provision.core.models.facts import HostFacts
from provision.core.models.records import CheckRecord, PhaseResult
from provision.core.models.settings import Host
from provision.fleet.ssh.channel import Channel
from provision.pipeline import playbooks
from provision.pipeline.context import RunContext
from provision.pipeline.stage import recompute_desired
from provision.report.last_verify import verified_line
from provision.report.run_files import TOGETHER
from verify.kept import failed
from verify.records import FRAME, SERVING, Level

if TYPE_CHECKING:
    from provision.phases.verify.selection import Picked
    from provision.phases.verify.tool_output import Verified

LATE_S = 60.0
"""Beyond the time that a host is given: for its answer to come back."""


def verify(context: RunContext) -> None:
    """Prove that what was installed computes right, before it goes live; carry the last proof where nothing changed."""
    for host in context.hosts():
        if host.name in context.up_to_date:
            installed = context.facts[host.name].installed
            last = installed.last_verify if installed else None
            text = f"nothing changed since it was {verified_line(last, context.facts[host.name].probed_at)}"
            context.record(PhaseResult(host=host.name, phase="verify", status="skipped", text=text))
    check(context, context.working(), level="standard", serve_follows=True)


def check(
    context: RunContext,
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
    from provision.phases.verify.run_checks import time_limit_s  # noqa: PLC0415 - only runs that verify pay for it
    from provision.phases.verify.run_checks import verify as run_checks  # noqa: PLC0415 - only runs that verify pay for it
    from verify.fleet import compare  # noqa: PLC0415 - only runs that verify pay for it

    started = time.monotonic()
    expectations = expected(context, hosts)
    if serve_follows:
        expectations = {host.name: {**expectations.get(host.name, {}), "serve_follows": True} for host in hosts}
    # What failed more deeply runs as deeply again.
    deeper = serve_follows and any(standing(context, host.name) for host in hosts)

    def call(host: Host) -> Verified:
        paths, desired = context.install_paths[host.name], context.desired.get(host.name)
        return run_checks(
            context.session(host),
            prefix=paths.prefix,
            environment=desired.environment if desired else None,
            level=level,
            devices=device_count(context.facts.get(host.name)),
            expect=expectations.get(host.name),
            root=paths.root,
            drain=drain,
            soak_minutes=soak_minutes,
            picked=picked,
        )

    documents, torches = [], []
    devices = max((device_count(context.facts.get(host.name)) for host in hosts), default=1)
    limit_s = time_limit_s("full" if deeper else level, devices, drain=drain, soak_minutes=soak_minutes, picked=picked)
    for name, verified in context.run_on_hosts("verify", hosts, call, deadline_s=limit_s + LATE_S).items():
        context.verified[name] = verified.document
        context.run.write(f"verify/{name}.json", verified.document)
        if soak_minutes is None and not picked and not any(check.id == FRAME for check in verified.checks):
            path = f"{context.install_paths[name].prefix}/verify/last.json"
            context.run.change("checks", host=name, path=path, changed=True, level=level, exit_code=verified.exit_code)
        if name in context.staged:
            recompute_desired(context, name, verified.document)
        decisive = [check for check in verified.checks if not (serve_follows and check.family == SERVING)]
        context.record(judged(name, decisive, time.monotonic() - started))
        documents.append(verified.document)
        torches += [context.host(name)] if verified.document.get("torch") else []
    together = compare(documents)
    if meet and len(torches) > 1:
        together.append(tried_together(context, torches))
    if together:
        context.run.write(TOGETHER, {"checks": together})


def standing(context: RunContext, name: str) -> dict[str, Level]:
    """The checks that stand as failed on a host, each with the deepest level at which they did: by this run, else as it was found."""
    facts = context.facts.get(name)
    installed = facts.installed if facts else None
    return failed(context.verified.get(name) or (installed.last_verify if installed else None) or {})


def refute(context: RunContext, names: Sequence[str]) -> None:
    """Run the checks of what serves once more that failed before, where it has been started anew and proven."""
    hosts = [
        context.host(name) for name in names if any(id_.startswith(f"{SERVING}.") for id_ in standing(context, name))
    ]
    if not hosts:
        return
    from provision.phases.verify.run_checks import time_limit_s  # noqa: PLC0415 - only hosts that failed pay for it
    from provision.phases.verify.run_checks import verify as run_checks  # noqa: PLC0415 - only hosts that failed pay for it

    started = time.monotonic()
    devices = max((device_count(context.facts.get(host.name)) for host in hosts), default=1)
    limit_s = time_limit_s("full", devices)

    def call(host: Host) -> Verified:
        paths = context.install_paths[host.name]
        context.progress.note(host.name, "checks again what failed")
        return run_checks(
            context.session(host),
            prefix=paths.prefix,
            level="full",
            devices=devices,
            expect=expected(context, [host]).get(host.name),
            root=paths.root,
            refute=True,
        )

    for name, verified in context.run_on_hosts("verify", hosts, call, deadline_s=limit_s + LATE_S).items():
        context.verified[name] = verified.document
        context.run.write(f"verify/{name}.json", verified.document)
        context.record(judged(name, verified.checks, time.monotonic() - started))


def expected(context: RunContext, hosts: Sequence[Host]) -> dict[str, dict[str, Any]]:
    """What each host's checks compare with: the Stack of this run where there is one, and the GPUs that should be there."""
    from provision.phases.verify.expected_gpus import expected_gpus  # noqa: PLC0415 - only runs that verify pay for it
    from provision.report.difference import last_green  # noqa: PLC0415 - only runs that verify pay for it

    found: dict[str, dict[str, Any]] = {
        host.name: {"stack": context.desired[host.name].stack} for host in hosts if host.name in context.desired
    }
    with_cards = {host.name for host in hosts if (facts := context.facts.get(host.name)) and facts.pci_gpus}
    with_cards |= {name for name, expect in found.items() if expect["stack"]["torch"]["variant"] != "cpu"}
    before = last_green(context.run.folder.parent, context.run.name, with_cards) if with_cards else {}
    for name in with_cards & context.facts.keys():
        then, expect = before.get(name), found.setdefault(name, {})
        torch = expect["stack"]["torch"]["variant"] if "stack" in expect else None
        torch = torch or (then.stack.torch.variant if then and then.stack else "cpu")
        gpus = expected_gpus(
            context.facts[name],
            context.host(name).settings,
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


def tried_together(context: RunContext, hosts: Sequence[Host]) -> dict[str, Any]:
    """Let hosts find and reach one another, and exchange numbers: the record of it. Nothing is set on them."""
    from provision.fleet.multihost import meet  # noqa: PLC0415 - only runs that try hosts together pay for it

    for host in hosts:
        context.progress.note(host.name, "meets the other hosts")
    return meet({host.name: partial(_part, context, host) for host in hosts})


def _part(context: RunContext, host: Host) -> Channel:
    """Start a host's part, in the environment that was checked."""
    from provision.phases.verify.run_checks import tool_command  # noqa: PLC0415 - only runs that verify pay for it

    paths, desired = context.install_paths[host.name], context.desired.get(host.name)
    environment = f"envs/{desired.environment}" if desired else "current"
    command = tool_command(paths.prefix.rstrip("/"), environment, ["between"])
    return context.session(host).open_channel(command, root=paths.root)


def check_drained(context: RunContext, *, level: Level, meet: bool = False, picked: Picked | None = None) -> None:
    """Run the checks while nothing serves; whatever ends them, each service is started and proven again.

    Raises KeyboardInterrupt when the person ended it, after the services are back.
    """
    playbooks.acquire_locks(context, "verify", context.hosts())
    hosts = context.hosts()
    try:
        check(context, hosts, level=level, drain=True, meet=meet, picked=picked)
    except KeyboardInterrupt:
        resume_services(context, hosts)
        raise
    finally:
        for host in hosts:
            context.run.change(
                "drain",
                host=host.name,
                path=f"{context.install_paths[host.name].prefix}/run/drained.json",
                changed=True,
            )


def resume_services(context: RunContext, hosts: Sequence[Host]) -> None:
    """Have each service started and proven that an interruption left stopped."""
    from provision.phases.verify.run_checks import DRAIN_S, resume  # noqa: PLC0415 - only after an interruption

    def call(host: Host) -> tuple[bool, str]:
        paths = context.install_paths[host.name]
        context.progress.note(host.name, "interrupted: starting the service again")
        return resume(context.session(host), prefix=paths.prefix, root=paths.root)

    for name, (is_back, text) in context.run_on_hosts("verify", hosts, call, deadline_s=DRAIN_S).items():
        context.run.event("resumed", host=name, phase="verify", text=text)
        if not is_back:
            result = PhaseResult(host=name, phase="verify", status="failed", text=text, hint="./firstlight serve")
            context.reject(result)


def judged(name: str, checks: Sequence[CheckRecord], seconds: float) -> PhaseResult:
    """One result of all checks: the worst one speaks."""
    order = ("error", "fail", "warn")
    worst = next((check for status in order for check in checks if check.status == status), None)
    if worst is None:
        return PhaseResult(host=name, phase="verify", status="ok", seconds=round(seconds, 3))
    return PhaseResult(
        host=name,
        phase="verify",
        status="warn" if worst.status == "warn" else "failed",
        seconds=round(seconds, 3),
        text=f"check `{worst.id}`: {worst.reason}",
        hint=worst.remedy,
    )
