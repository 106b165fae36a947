"""`./firstlight monitoring`: Prometheus, its alerts and exporters, and the targets of a Prometheus outside of the inventory."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from provision.cli.groups import with_default
from provision.cli.options import BECOME, CHANGED, INVENTORY, VERBOSE, command
from provision.core.errors import InventoryError
from provision.core.files import write_atomically
from provision.core.models.inventory import MONITORING
from provision.core.run_folder import require_writable
from provision.features.monitoring.step import ask_card_ports, without_exporter
from provision.features.monitoring.targets import KEYED, Found, outside_targets, render_targets
from provision.pipeline import CommandRequest
from provision.pipeline.commands import print_summary, run_steps, write_stdout
from provision.pipeline.phases import BEFORE_PLAN, PROBE, fleet_steps
from provision.pipeline.runner import execute, read_inventory
from provision.run.context import RunContext
from provision.run.results import AnsweredHosts, ProbedHosts
from provision.run.served import ask_served
from provision.run.step import Step

app = typer.Typer(
    cls=with_default("set-up"),
    help="Set up Prometheus with its alerts and exporters, or list targets for your own; `monitoring` alone runs `monitoring set-up`.",
    rich_markup_mode=None,
)


@command(app, "monitoring", INVENTORY, VERBOSE, after=CHANGED, name="set-up")
def set_up(request: CommandRequest) -> int:
    """Set up Prometheus and its alerts on hosts of group `monitoring`, and exporters on all others."""
    if not any(host.is_monitoring for host in read_inventory(request).hosts):
        raise InventoryError(
            f"the inventory `{request.inventory}` has no group `{MONITORING}` with a host",
            hint="add the group with a host that may read the metrics of all others; docs/guides/monitoring.md shows one",
        )
    return run_steps(request, (*BEFORE_PLAN, *fleet_steps("monitoring", "firewall")))


@command(app, "monitoring", INVENTORY, VERBOSE, after=(BECOME,))
def targets(
    request: CommandRequest,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write, or to replace. Default: standard output."),
    ] = None,
) -> int:
    """List targets for your own Prometheus, as a file for its `file_sd_configs`; no host is changed."""
    if output is not None:
        require_writable(output, "-o")
    outcome = execute(request, (PROBE, Step("targets", _ask, "serve", "all", reads_only=True)))
    if not isinstance(outcome.result, AnsweredHosts):
        return print_summary(outcome)
    found: Found = outcome.result.answer
    if not found.targets:
        raise InventoryError(
            "no host offers metrics to other machines",
            hint="set firstlight_bind and firstlight_expose: true, then ./firstlight serve; docs/guides/monitoring.md says more",
        )
    text = render_targets(found.targets, indent=1, keyed=KEYED)
    if output is None:
        write_stdout(text)
    else:
        write_atomically(output, text)
    notes = [f"{name}: {why}" for name, why in found.missing.items()]
    if keyed := [target.host for target in found.targets if target.key is not None]:
        notes.append(
            f"vLLM of {', '.join(keyed)} asks for its API key; docs/guides/monitoring.md has the scrape configuration"
        )
    sys.stderr.write("".join(f"note: {note}\n" for note in notes))
    return outcome.exit_code


def _ask(context: RunContext, probed: ProbedHosts) -> AnsweredHosts[Found]:
    cards = ask_card_ports(context, probed)
    served, without = ask_served(context, probed), without_exporter(probed)
    found = outside_targets(context.inventory.hosts, served, cards, without)
    return AnsweredHosts(**vars(probed), answer=found)


def add_to(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.add_typer(app, name="monitoring")
