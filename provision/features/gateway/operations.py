"""Commands on gateways: set-up, drain, ready, status, usage; and what each prints.

They raise InventoryError where the inventory has no gateway, and FirstlightError where nothing was changed or they were interrupted.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from provision.core.errors import Exit, FirstlightError, InventoryError
from provision.core.models.inventory import GATEWAY, Inventory
from provision.core.redaction import redact, scrub
from provision.features.gateway.draining import Action, TrafficHosts, change
from provision.features.gateway.draining import status as read_status
from provision.features.gateway.traffic import Traffic, document, render, sessions_of
from provision.features.gateway.usage import Usage
from provision.features.gateway.usage import document as usage_document
from provision.features.gateway.usage import render as render_usage
from provision.pipeline import CommandRequest
from provision.pipeline.commands import run_steps, without_answer, write_stdout
from provision.pipeline.phases import BEFORE_PLAN, fleet_steps
from provision.pipeline.runner import execute, read_inventory
from provision.report.layout import count
from provision.run.step import Step


def set_up(request: CommandRequest) -> int:
    """Set the gateway up in front of the hosts that serve, print the summary, and return the exit code."""
    _require_gateway(request)
    return run_steps(request, (*BEFORE_PLAN, *fleet_steps("gateway", "firewall")))


def _require_gateway(request: CommandRequest) -> Inventory:
    """Return the inventory of a command. Raises InventoryError where no host of it is a gateway."""
    inventory = read_inventory(request)
    if not any(host.is_gateway for host in inventory.hosts):
        raise InventoryError(
            f"the inventory `{request.inventory}` has no gateway: no host is in group `{GATEWAY}`",
            hint="add the group with a host that clients reach; docs/guides/gateway.md shows one",
        )
    return inventory


def status(request: CommandRequest) -> int:
    """Print the figures of each host behind each gateway, and return the exit code."""
    return _show(request, document, render)


def usage(request: CommandRequest) -> int:
    """Print the tokens of each client of each gateway, and return the exit code."""

    def usages(traffics: Iterable[Traffic]) -> dict[str, Usage]:
        return {traffic.gateway: traffic.usage for traffic in traffics}

    return _show(request, lambda found: usage_document(usages(found)), lambda found: render_usage(usages(found)))


def _show(
    request: CommandRequest,
    document: Callable[[Sequence[Traffic]], dict[str, Any]],
    render: Callable[[Sequence[Traffic]], str],
) -> int:
    """Ask all gateways, print what they answer as JSON or text, and return the exit code."""
    _require_gateway(request)
    outcome = execute(replace(request, limit=GATEWAY), (Step("traffic", read_status, "serve", "all", reads_only=True),))
    traffics = _traffics(outcome.result)
    missing = without_answer(outcome.summary, {traffic.gateway for traffic in traffics})
    if request.as_json:
        found: dict[str, Any] = document(traffics) | ({"missing": missing} if missing else {})
        write_stdout(json.dumps(scrub(found), indent=2))
        return outcome.exit_code
    if traffics:
        write_stdout(redact(render(traffics)))
    for one in missing:
        hint = f"\n\nhint: {one['hint']}" if one["hint"] else ""
        sys.stderr.write(redact(f"error: {one['text']}{hint}\n"))
    return outcome.exit_code


def drain(request: CommandRequest, names: Sequence[str], *, within_s: float | None, force: bool) -> int:
    """Drain hosts at all gateways, wait for their requests, print what was left, and return the exit code; see `draining.change`."""
    traffics = _change(request, "drain", names, within_s=within_s, force=force)
    for name, left in sessions_of(traffics, names).items() if not request.as_json else ():
        at = ", ".join(traffic.gateway for traffic in traffics if traffic.of(name))
        rest = f"{count(left, 'request')} still running" if left else "no request is left"
        write_stdout(f"{name}: drained at {at}; {rest}")
    return Exit.OK


def ready(request: CommandRequest, names: Sequence[str]) -> int:
    """Let drained hosts get requests again, and return the exit code."""
    traffics = _change(request, "ready", names)
    for name in names if not request.as_json else ():
        at = [(traffic.gateway, one) for traffic in traffics if (one := traffic.of(name))]
        down = [gateway for gateway, one in at if one.state == "down"]
        rest = f"; it is down there: {', '.join(down)}, and gets requests when it answers" if down else ""
        write_stdout(f"{name}: takes requests again at {', '.join(gateway for gateway, _ in at)}{rest}")
    return Exit.OK


def _change(
    request: CommandRequest, action: Action, names: Sequence[str], *, within_s: float | None = None, force: bool = False
) -> tuple[Traffic, ...]:
    """Make a change, and return the traffic after it, which is printed as JSON where that is asked for."""
    names = tuple(dict.fromkeys(names))
    known = tuple(host.name for host in _require_gateway(request).hosts)
    run = partial(change, action=action, names=names, known=known, within_s=within_s, force=force)
    outcome = execute(replace(request, limit=GATEWAY), (Step(action, run, "serve", "all"),))
    if outcome.exit_code == Exit.INTERRUPTED:
        see, back = (request.invocation.on_inventory("gateway", *words) for words in (("status",), ("ready", *names)))
        hint = f"to see it: {see}; to bring back: {back}"
        error = FirstlightError(f"interrupted: {', '.join(names)} may be drained", hint=hint)
        error.exit_code = Exit.INTERRUPTED
        raise error
    if isinstance(outcome.result, TrafficHosts) and outcome.result.error is not None:
        raise outcome.result.error
    traffics = _traffics(outcome.result)
    if request.as_json:
        write_stdout(json.dumps(scrub(document(traffics)), indent=2))
    return traffics


def _traffics(result: object) -> tuple[Traffic, ...]:
    return result.traffics if isinstance(result, TrafficHosts) else ()
