"""`./firstlight rollout ...`: a new release goes to the hosts step by step, each step decided by a gate; a bad one goes back.

A rollout is a row of ordinary runs, each over some hosts: one that sends everything beforehand, for each step those that
switch its hosts, one for its gate, and runs of `rollback` where it ends badly. Its state is on disk before and after each of
them, so a killed controller loses nothing: `resume` goes on, `abort` takes back.

A command raises UsageError where an option cannot be used, the wanted rollout is not open or its file is damaged, and HostLockedError
where another process drives it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from provision.cli.groups import with_default
from provision.cli.options import CHANGED, PLANNING, PRINTED, command
from provision.core.errors import Exit, InventoryError, UsageError
from provision.core.models.inventory import GATEWAY, Host, Inventory
from provision.core.models.settings import OPTIONS
from provision.core.redaction import scrub
from provision.core.run_folder import utc_now
from provision.features.gateway.restarts import moves
from provision.features.rollout.driver import RolloutDriver
from provision.features.rollout.model import Rollout, RolloutHost, RolloutOptions, content_of
from provision.features.rollout.steps import DEFAULT_STEPS, STAGING, assign, parse_steps, require_capacity
from provision.features.rollout.store import RolloutStore, Wish
from provision.features.rollout.text import ABORTED, described, print_rollout
from provision.phases.install.step import install
from provision.phases.stage.vllm_wheel import names_index
from provision.pipeline import CommandRequest
from provision.pipeline.commands import print_summary, write_stdout
from provision.pipeline.phases import BEFORE_PLAN, PLAN, STAGE
from provision.pipeline.runner import RunOutcome, execute, hosts_of_group, read_inventory
from provision.report.layout import quoted
from provision.run.context import RunContext
from provision.run.results import StagedHosts
from provision.run.step import Step

app = typer.Typer(
    cls=with_default("start"),
    help="Bring a new release to the hosts step by step: `rollout` alone runs `rollout start`.",
    rich_markup_mode=None,
)


@command(app, "rollout", *PLANNING, after=PRINTED)
def start(
    request: CommandRequest,
    *,
    steps: Annotated[
        str,
        typer.Option(
            metavar="N[:TIME],...",
            help="Percentage of the changing hosts that serve the new release after each step; 25:1h observes that step for at least an hour (s, m, h).",
        ),
    ] = DEFAULT_STEPS,
    min_serving: Annotated[
        int, typer.Option(metavar="N", min=0, help="Number of hosts that must serve at any time.")
    ] = 0,
    hold: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Observe each step for at least this many seconds.")
    ] = 0.0,
    before_host: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Command that this machine runs before a host changes, to take the host ($FIRSTLIGHT_HOST) out of traffic.",
        ),
    ] = None,
    after_host: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Command that this machine runs after a host changed, to return it to traffic.",
        ),
    ] = None,
) -> int:
    """Start a rollout: change and check hosts step by step; if a host fails or the new release is worse, roll all changed hosts back."""
    given = {OPTIONS.get(name, f"--set {name}"): value for name, value in request.overrides.items()}
    for option, value in (given | {"--before-host": before_host, "--after-host": after_host}).items():
        if scrub({option: value}) != {option: value}:
            text = f"`{option}` has a secret, which the record of the rollout must not keep"
            instead = "set it in the inventory" if option in given else "give a script that reads it from a file"
            raise UsageError(text, hint=instead)
    holds = parse_steps(steps)
    options = RolloutOptions(
        min_serving=min_serving,
        hold_s=hold,
        holds_s={step: hold_s for step, hold_s in holds.items() if hold_s is not None},
        before_host=before_host,
        after_host=after_host,
        folder=str(Path.cwd()),
    )
    inventory = read_inventory(request)
    serving = _serving(request, inventory)
    if changing := [host.name for host in serving if names_index(host.settings.vllm)]:
        raise UsageError(
            f"hosts {quoted(changing)} are to get the newest vLLM of an index, which may be another one at each step",
            hint="name one wheel, by its address or file, or its version: --vllm X.Y.Z.devN",
        )
    require_capacity(serving=len({host.head for host in serving}), min_serving=min_serving)
    store = RolloutStore(request.logs)
    with store.locked():
        store.require_none_open()
        store.take_wish()
        outcome = execute(request, (*BEFORE_PLAN, PLAN, STAGE, Step("install", _install_beforehand, "install")))
        if outcome.exit_code != Exit.OK or not isinstance(outcome.result, StagedHosts):
            print_summary(outcome)
            return outcome.exit_code or Exit.RED
        rollout = _made(request, options, tuple(holds), inventory, outcome)
        if not rollout.hosts:
            rollout = rollout.model_copy(update={"state": "done", "text": "every host serves this release already"})
            print_rollout(request, rollout)
            return Exit.OK
        return RolloutDriver(request, store, rollout, inventory).go_on()


@command(app, "rollout", after=CHANGED)
def resume(request: CommandRequest) -> int:
    """Continue the open rollout where it was paused, interrupted or killed."""
    store = RolloutStore(request.logs)
    with store.locked():
        rollout = store.require_open()
        store.take_wish()
        return _driver_of(request, store, rollout).go_on()


@command(app, "rollout", after=CHANGED)
def abort(request: CommandRequest) -> int:
    """Return every changed host of the open rollout to the release that it served before."""
    store = RolloutStore(request.logs)
    rollout = store.require_open()
    if store.is_driven():
        return _wish(request, store, rollout, "abort", "takes it back")
    with store.locked():
        return _driver_of(request, store, rollout).take_back(ABORTED, wanted=True)


@command(app, "rollout", after=PRINTED)
def pause(request: CommandRequest) -> int:
    """Pause the running rollout before its next host."""
    store = RolloutStore(request.logs)
    rollout = store.require_open()
    if store.is_driven():
        return _wish(request, store, rollout, "pause", "pauses")
    print_rollout(request, rollout, f"rollout {rollout.name} does not run: {rollout.suggest('resume')} continues it")
    return Exit.OK


@command(app, "rollout", after=PRINTED)
def status(request: CommandRequest) -> int:
    """Show the progress of the newest rollout, with the numbers behind each decision."""
    store = RolloutStore(request.logs)
    found = store.newest()
    is_driven = found is not None and store.is_driven()
    if request.as_json:
        document = found.model_dump(mode="json") | {"driven": is_driven} if found else None
        write_stdout(json.dumps(document, indent=2))
    else:
        write_stdout("\n".join(described(found, driven=is_driven) if found else ["there was no rollout yet"]))
    return Exit.OK


def _wish(request: CommandRequest, store: RolloutStore, rollout: Rollout, wish: Wish, becomes: str) -> int:
    """Ask the process that drives the rollout for something, and say so."""
    store.wish(wish)
    soon = "before the next host, or within a round of the gate"
    print_rollout(request, rollout, f"the process that drives the rollout {becomes} {soon}")
    return Exit.OK


def _driver_of(request: CommandRequest, store: RolloutStore, rollout: Rollout) -> RolloutDriver:
    """Return what drives a rollout as it was begun; the sudo password comes from the present request, as no record keeps it."""
    if rollout.become and request.become_password is None:
        text = f"rollout {rollout.name} was begun with -K, and goes on only with it"
        raise UsageError(text, hint="add -K: without root, hosts would get an installation in the home folder")
    begun = replace(request, inventory=Path(rollout.inventory), limit=rollout.limit, overrides=rollout.options)
    typed = request.invocation.model_copy(update={"inventory": rollout.inventory, "limit": rollout.limit})
    begun = replace(begun, invocation=typed)
    return RolloutDriver(begun, store, rollout, read_inventory(begun))


def _serving(request: CommandRequest, inventory: Inventory) -> list[Host]:
    hosts = [host for host in inventory.hosts if host.is_serving]
    if not hosts:
        raise InventoryError(
            f"the inventory `{request.inventory}` has no host that serves",
            hint="a rollout changes what hosts serve; look at firstlight_serve",
        )
    there = {host.name for host in hosts}
    for span in (host.span for host in hosts if host.span):
        if missing := [name for name in span.members if name not in there]:
            raise InventoryError(
                f"hosts {quoted(span.members)} serve one model together, and --limit leaves out {quoted(missing)}",
                hint=f"name all of them: --limit {','.join(span.members)}",
            )
    return hosts


def _require_way_back(hosts: Iterable[Host], before: Mapping[str, str | None]) -> None:
    """Raise InventoryError where only some hosts of a span can return to releases of before."""
    for span in (host.span for host in hosts if host.span):
        new = [name for name in span.members if before.get(name) is None]
        if 0 < len(new) < len(span.members):
            raise InventoryError(
                f"hosts {quoted(span.members)} are to serve one model together, and {quoted(new)} served nothing before: "
                "a rollout could not take them back",
                hint="begin with ./firstlight provision; later releases go by rollout",
            )


def _require_same_endpoints(names: Iterable[str], staged: StagedHosts) -> None:
    """Raise UsageError where gateways would not find hosts of the new release by what they know of the old one."""
    known = [name for name in names if (one := staged.facts[name].installed) and (one.state or {}).get("readiness")]
    if moved := [name for name in known if moves(staged.desired[name], staged.facts[name])]:
        raise UsageError(
            f"hosts {quoted(moved)} get another model name, address or port, or their first API key: "
            "gateways learn that at the end of a rollout, and clients would get errors until then",
            hint="keep the name that clients use, with firstlight_served_model_name; or use ./firstlight provision",
        )


def _install_beforehand(context: RunContext, staged: StagedHosts) -> StagedHosts:
    """Build new environments next to those that serve, unless a driver is to change, which its host's step has to do."""
    stacks = [stack for host in context.hosts() if (stack := staged.stack(host.name))]
    changes = any(stack.driver and stack.driver.action != "keep" for stack in stacks)
    return staged if changes else install(context, staged)


def _made(
    request: CommandRequest, options: RolloutOptions, steps: tuple[int, ...], inventory: Inventory, outcome: RunOutcome
) -> Rollout:
    """Return the rollout of a run that has staged its release."""
    result = outcome.result
    assert isinstance(result, StagedHosts)
    unchanged = result.up_to_date | {host.name for host in outcome.summary.hosts if host.state == "quarantined"}
    changing = [host for host in inventory.hosts if host.is_serving and host.name not in unchanged]
    # Hosts that serve one model together change as one: steps count those that answer requests.
    heads = list(dict.fromkeys(host.head for host in changing))
    staging = list(dict.fromkeys(host.head for host in changing if STAGING in host.groups))
    # Behind a gateway a host is tried without requests of clients, also where the inventory has none for that.
    gateways = hosts_of_group(request, inventory, GATEWAY)
    first_alone = not staging and len(heads) > 1 and bool(gateways)
    steps = (0, *steps) if staging or first_alone else steps
    step_of = assign(heads, steps, staging, first_alone=first_alone)
    installed = {name: facts.installed for name, facts in result.facts.items()}
    hosts = [
        RolloutHost(
            name=host.name,
            step=step,
            before=there.release if (there := installed[host.name]) else None,
            content_before=content_of(there.state) if there else None,
            content=content_of(result.desired[host.name].state),
        )
        for head, step in sorted(step_of.items(), key=lambda item: item[1])
        for host in changing
        if host.head == head
    ]
    _require_way_back(changing, {host.name: host.before for host in hosts})
    if gateways:
        _require_same_endpoints([host.name for host in hosts if host.before], result)
    return Rollout(
        **options.model_dump(),
        name=outcome.summary.run,
        inventory=str(request.inventory.resolve()),
        limit=request.limit,
        # As they were read: relative paths begin at the folder of this command.
        options={name: getattr(inventory.hosts[0].settings, name) for name in request.overrides},
        become=request.become_password is not None,
        steps=steps,
        started_at=utc_now(),
        hosts=tuple(hosts),
        runs=(outcome.summary.run,),
    )


def add_to(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.add_typer(app, name="rollout")
