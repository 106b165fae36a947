"""At which ports hosts of spans are to accept one another, and from where, as they say it themselves."""

from __future__ import annotations

from collections.abc import Sequence

from provision.core.models.facts import Port
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseName
from provision.features.firewall.rules import READ_DEADLINE_S, Opening, source_command, sources_of, ssh_ports_of
from provision.features.multinode.ports import chosen_command, chosen_of, span_openings, taken_ports
from provision.run.context import RunContext


class SpanAddresses:
    """From which addresses hosts of spans connect to one another, and which ports their systems choose from."""

    def __init__(self, context: RunContext, phase: PhaseName, hosts: Sequence[Host]) -> None:
        """Ask the hosts.

        Args:
            context: The run.
            phase: The phase that a failure to answer is recorded under.
            hosts: The hosts; those without a span are left out.
        """
        self._context = context
        own = [host for host in hosts if host.span]
        ready = {host.name for host in context.hosts()}
        members = {other.name: other for host in own for other in (host, *self.others(host)) if other.name in ready}

        def ask(host: Host) -> tuple[str, str]:
            targets = {other.address_in_span: other.address_in_span for other in self.others(host)}
            session = context.session(host)
            return session.run(source_command(targets)).stdout, session.run(chosen_command()).stdout

        said = context.run_on_hosts(phase, [*members.values()], ask, deadline_s=READ_DEADLINE_S)
        self._sources = {name: sources_of(routes) for name, (routes, _) in said.items()}
        self._chosen = {name: chosen_of(chosen) for name, (_, chosen) in said.items()}

    def others(self, host: Host) -> list[Host]:
        """Return the other hosts of a host's span."""
        members = host.span.members if host.span else ()
        return [one for one in self._context.inventory.hosts if one.name in members and one.name != host.name]

    def silent(self, host: Host) -> list[str]:
        """Return the other hosts of a host's span that do not say from which address they connect to it."""
        return [other.name for other in self.others(host) if not self._known(other, host)]

    def openings(self, host: Host, listening: Sequence[Port]) -> tuple[Opening, ...]:
        """Return the ports at which the other hosts of its span connect to a host; none without a span, or if it did not answer.

        Args:
            host: The host.
            listening: Its ports, as they were probed.

        Raises:
            InventoryError: A port of the span is the port of SSH.
        """
        if host.name not in self._chosen:
            return ()
        # A program of the span connects from its address there, an engine from the one that the route names.
        sources = [
            source for other in self.others(host) for source in (*self._known(other, host), other.address_in_span)
        ]
        return span_openings(
            host,
            sources,
            self._chosen[host.name],
            taken_ports(host, listening),
            ssh_ports=ssh_ports_of(listening),
        )

    def _known(self, viewer: Host, host: Host) -> tuple[str, ...]:
        return self._sources.get(viewer.name, {}).get(host.address_in_span, ())
