"""`./firstlight monitoring targets`: what a Prometheus outside of the inventory may read, as a file of its service discovery."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from provision.core.errors import InventoryError
from provision.core.files import write_atomically
from provision.core.models.inventory import Host
from provision.features.monitoring.monitoring import ask_card_ports
from provision.features.monitoring.targets import Found, find_targets, render_targets
from provision.fleet.inventory.addresses import OUTSIDE
from provision.pipeline import CommandRequest
from provision.pipeline.commands import print_summary, write_stdout
from provision.pipeline.phases import PROBE
from provision.pipeline.runner import execute
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from provision.run.served import Served, ask_served
from provision.run.step import Step

KEYED = {"__firstlight_key": "required"}
"""Label of a target that asks for an API key. Prometheus removes it after relabelling, which can choose by it."""


@dataclass(frozen=True)
class AskedHosts(ProbedHosts):
    """Hosts with what they serve, and the ports of exporters of card vendors."""

    served: Mapping[str, Served | None] = field(default_factory=dict)
    cards: Mapping[str, Sequence[int]] = field(default_factory=dict)


def targets(request: CommandRequest, output: Path | None) -> int:
    """Write the document, say on standard error what is missing in it, and return the exit code.

    Args:
        request: The command.
        output: The file, which is replaced; None: standard output.

    Raises:
        InventoryError: There is nothing to read.
    """
    outcome = execute(request, (PROBE, Step("targets", _ask, "serve", "all", reads_only=True)))
    if not isinstance(outcome.result, AskedHosts):
        return print_summary(outcome)
    found = outside_targets(outcome.hosts, outcome.result.served, outcome.result.cards)
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


def outside_targets(
    hosts: Sequence[Host], served: Mapping[str, Served | None], cards: Mapping[str, Sequence[int]]
) -> Found:
    """Return what a machine outside of the inventory may read.

    Gateways and node exporters offer metrics only where the inventory has monitoring hosts. Probes of gateways are left out: they
    need a blackbox exporter.

    Args:
        hosts: All hosts.
        served: What they serve, by name.
        cards: Ports of exporters of card vendors, by host.
    """
    is_monitored = any(host.is_monitoring for host in hosts)
    why = "no node exporter: the inventory has no group `monitoring`"
    found = find_targets(
        OUTSIDE, hosts, served, {} if is_monitored else {host.name: why for host in hosts}, card_ports=cards
    )
    jobs = ("vllm", "node", "cards", "gateway") if is_monitored else ("vllm", "cards")
    return Found(tuple(target for target in found.targets if target.job in jobs), found.missing)


def _ask(context: RunContext, probed: ProbedHosts) -> AskedHosts:
    cards = ask_card_ports(context, probed)
    return AskedHosts(**vars(probed), served=ask_served(context, probed), cards=cards)
