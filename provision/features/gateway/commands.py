"""`./firstlight gateway ...`: one address in front of all hosts, and its traffic.

Commands raise InventoryError where the inventory has no gateway, and FirstlightError where nothing was changed or they were interrupted.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer

from provision.cli.groups import with_default
from provision.cli.options import CHANGED, INVENTORY, VERBOSE, command
from provision.core.errors import Exit, FirstlightError, InventoryError
from provision.core.models.inventory import GATEWAY, Inventory
from provision.core.redaction import redact, scrub
from provision.features.gateway import draining, traffic
from provision.features.gateway.draining import Action
from provision.features.gateway.traffic import Traffic
from provision.pipeline import CommandRequest
from provision.pipeline.commands import report_missing, run_steps, without_answer, write_stdout
from provision.pipeline.phases import BEFORE_PLAN, fleet_steps
from provision.pipeline.runner import execute, read_inventory
from provision.report.layout import count
from provision.run.results import AnsweredHosts
from provision.run.step import Step

app = typer.Typer(
    cls=with_default("set-up"),
    help="Set up the gateway in front of the hosts that serve, and control its traffic: `gateway` alone runs `gateway set-up`.",
    rich_markup_mode=None,
)

HostsArgument = Annotated[list[str], typer.Argument(metavar="HOST", help="Hosts of the inventory.")]


@command(app, "gateway", INVENTORY, VERBOSE, after=CHANGED, name="set-up")
def set_up(request: CommandRequest) -> int:
    """Set up the gateway in front of the hosts that serve: one address, TLS, a key for each client."""
    _require_gateway(request)
    return run_steps(request, (*BEFORE_PLAN, *fleet_steps("gateway", "firewall")))


@command(app, "gateway", INVENTORY, after=CHANGED)
def status(request: CommandRequest) -> int:
    """Show the traffic of each host: state, share, running and total requests, errors."""
    return _show(request, traffic.document, traffic.render)


@command(app, "gateway", INVENTORY, after=CHANGED)
def usage(request: CommandRequest) -> int:
    """Show the tokens that each client has used in this minute and this day (UTC), and what is left."""
    return _show(request, traffic.usage_document, traffic.render_usage)


@command(app, "gateway", INVENTORY, after=CHANGED)
def drain(
    request: CommandRequest,
    hosts: HostsArgument,
    *,
    within: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="How long to wait for running requests. Default: firstlight_gateway_drain_seconds.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also drain the last host of a model; clients then get 503.")
    ] = False,
) -> int:
    """Send no new requests to hosts from any gateway, and wait until the running ones have ended."""
    traffics = _change(request, "drain", hosts, within_s=within, force=force)
    for name, left in traffic.sessions_of(traffics, hosts).items() if not request.as_json else ():
        at = ", ".join(one.gateway for one in traffics if one.of(name))
        rest = f"{count(left, 'request')} still running" if left else "no request is left"
        write_stdout(f"{name}: drained at {at}; {rest}")
    return Exit.OK


@command(app, "gateway", INVENTORY, after=CHANGED)
def ready(request: CommandRequest, hosts: HostsArgument) -> int:
    """Send requests to drained hosts again, from every gateway."""
    traffics = _change(request, "ready", hosts)
    for name in hosts if not request.as_json else ():
        at = [(gateway.gateway, one) for gateway in traffics if (one := gateway.of(name))]
        down = [gateway for gateway, one in at if one.state == "down"]
        rest = f"; it is down there: {', '.join(down)}, and gets requests when it answers" if down else ""
        write_stdout(f"{name}: takes requests again at {', '.join(gateway for gateway, _ in at)}{rest}")
    return Exit.OK


def _require_gateway(request: CommandRequest) -> Inventory:
    """Return the inventory of a command. Raises InventoryError where no host of it is a gateway."""
    inventory = read_inventory(request)
    if not any(host.is_gateway for host in inventory.hosts):
        raise InventoryError(
            f"the inventory `{request.inventory}` has no gateway: no host is in group `{GATEWAY}`",
            hint="add the group with a host that clients reach; docs/guides/gateway.md shows one",
        )
    return inventory


def _show(
    request: CommandRequest,
    document: Callable[[Sequence[Traffic]], dict[str, Any]],
    render: Callable[[Sequence[Traffic]], str],
) -> int:
    """Ask all gateways, print what they answer as JSON or text, and return the exit code."""
    _require_gateway(request)
    outcome = execute(
        replace(request, limit=GATEWAY), (Step("traffic", draining.status, "serve", "all", reads_only=True),)
    )
    traffics = _traffics(outcome.result)
    missing = without_answer(outcome.summary, {one.gateway for one in traffics})
    if request.as_json:
        found: dict[str, Any] = document(traffics) | ({"missing": missing} if missing else {})
        write_stdout(json.dumps(scrub(found), indent=2))
        return outcome.exit_code
    if traffics:
        write_stdout(redact(render(traffics)))
    report_missing(missing)
    return outcome.exit_code


def _change(
    request: CommandRequest, action: Action, names: Sequence[str], *, within_s: float | None = None, force: bool = False
) -> tuple[Traffic, ...]:
    """Make a change, and return the traffic after it, which is printed as JSON where that is asked for."""
    names = tuple(dict.fromkeys(names))
    known = tuple(host.name for host in _require_gateway(request).hosts)
    run = partial(draining.change, action=action, names=names, known=known, within_s=within_s, force=force)
    outcome = execute(replace(request, limit=GATEWAY), (Step(action, run, "serve", "all"),))
    if outcome.exit_code == Exit.INTERRUPTED:
        see, back = (request.invocation.on_inventory("gateway", *words) for words in (("status",), ("ready", *names)))
        hint = f"to see it: {see}; to bring back: {back}"
        error = FirstlightError(f"interrupted: {', '.join(names)} may be drained", hint=hint)
        error.exit_code = Exit.INTERRUPTED
        raise error
    traffics = _traffics(outcome.result)
    if request.as_json:
        write_stdout(json.dumps(scrub(traffic.document(traffics)), indent=2))
    return traffics


def _traffics(result: object) -> tuple[Traffic, ...]:
    """Return what gateways answered; raise why nothing was changed."""
    if not isinstance(result, AnsweredHosts):
        return ()
    if isinstance(result.answer, FirstlightError):
        raise result.answer
    return tuple(result.answer)


def add_to(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.add_typer(app, name="gateway")
