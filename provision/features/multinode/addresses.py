"""At which ports hosts of spans are to accept one another, and from where, as they say it themselves."""

import re
from collections.abc import Collection, Sequence

from provision.core.models.facts import Port
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseName
from provision.core.models.settings import CHOSEN_PORTS, Settings
from provision.features.firewall import rules
from provision.fleet.inventory.addresses import EVERYWHERE
from provision.run.context import RunContext


class SpanAddresses:
    """From which addresses hosts of spans connect to one another, and which ports their systems choose from."""

    def __init__(self, context: RunContext, phase: PhaseName, hosts: Sequence[Host]) -> None:
        """Ask the hosts that are in a span; a failure to answer is recorded under a phase."""
        self._context = context
        own = [host for host in hosts if host.span]
        ready = {host.name for host in context.hosts()}
        members = {other.name: other for host in own for other in (host, *self.others(host)) if other.name in ready}

        def ask(host: Host) -> tuple[str, str]:
            targets = {other.address_in_span: other.address_in_span for other in self.others(host)}
            session = context.session(host)
            return session.run(rules.source_command(targets.items())).stdout, session.run(f"cat {CHOSEN}").stdout

        said = context.run_on_hosts(phase, [*members.values()], ask, deadline_s=rules.READ_DEADLINE_S)
        self._sources = {name: rules.sources_of(routes) for name, (routes, _) in said.items()}
        self._chosen = {name: chosen_of(chosen) for name, (_, chosen) in said.items()}

    def others(self, host: Host) -> list[Host]:
        """Return the other hosts of a host's span."""
        members = host.span.members if host.span else ()
        return [one for one in self._context.inventory.hosts if one.name in members and one.name != host.name]

    def silent(self, host: Host) -> list[str]:
        """Return the other hosts of a host's span that do not say from which address they connect to it."""
        return [other.name for other in self.others(host) if not self._known(other, host)]

    def openings(self, host: Host, listening: Sequence[Port]) -> tuple[rules.Opening, ...]:
        """Return the ports at which the other hosts of its span connect to a host; none without a span, or if it did not answer. Raises as `span_openings`."""
        if host.name not in self._chosen:
            return ()
        # A program of the span connects from its address there, an engine from the one that the route names.
        sources = [
            source for other in self.others(host) for source in (*self._known(other, host), other.address_in_span)
        ]
        chosen, taken = self._chosen[host.name], taken_ports(host, listening)
        return span_openings(host, sources, chosen, taken, listening)

    def _known(self, viewer: Host, host: Host) -> tuple[str, ...]:
        return self._sources.get(viewer.name, {}).get(host.address_in_span, ())


CHOSEN = "/proc/sys/net/ipv4/ip_local_port_range"
"""From which ports a host's system chooses for processes that ask for any."""
ENGINE_TITLES = "VLLM::"
"""How the titles of vLLM's processes begin, to which the chosen ports belong (vllm/utils/system_utils.py of 0.32.0)."""
RAY_TITLES = "ray::"
"""How the titles of processes begin that Ray starts (python/ray/_private/ray_constants.py of 2.60.0)."""


def span_openings(
    host: Host,
    sources: Collection[str],
    chosen: tuple[int, int],
    taken: Collection[int],
    listening: Collection[Port] = (),
) -> tuple[rules.Opening, ...]:
    """Return the ports at which the other hosts of a span connect to one, in order: of all its addresses where a program listens at all.

    Args:
        sources: Addresses from which the others connect.
        chosen: First and last of the ports that its system chooses from for processes that ask for any, as vLLM's do.
        taken: Ports of other services there; those among the chosen ones stay as they are.

    Raises:
        InventoryError: A port at which the processes meet is the port of SSH.
    """
    own, allowed = host.address_in_span, rules.networks(sources)
    meeting = host.settings.span_ports if host.name == host.head else ()
    ray = _ports_of_ray(host.settings)
    rules.require_ssh_open(host, {*meeting, *ray}, listening)
    # The store at which vLLM's processes meet listens at all addresses (torch's TCPStore). With Ray its port is one of the chosen ones.
    # Ray does so too, and runs what it is sent.
    found = [rules.Opening(port, allowed, for_span=True) for port in meeting]
    if ray:
        found.append(rules.Opening(ray[0], allowed, last=ray[-1], for_span=True))
    first, last = chosen
    for port in [*sorted(port for port in taken if first <= port <= last), last + 1]:
        if first < port:
            found.append(rules.Opening(first, allowed, last=port - 1, address=None if ray else own, for_span=True))
        first = port + 1
    return tuple(found)


def taken_ports(host: Host, listening: Collection[Port]) -> frozenset[int]:
    """Return the ports of a host on which other services listen where those of its span do. Where no owner is known, only that of SSH counts."""
    own = host.address_in_span
    ray = _ports_of_ray(host.settings)
    titles = (ENGINE_TITLES, RAY_TITLES) if ray else (ENGINE_TITLES,)
    known = any(one.process for one in listening)
    others = {
        one.port
        for one in listening
        if known and (ray or one.address in (*EVERYWHERE, "*", own)) and not (one.process or "").startswith(titles)
    }
    return frozenset(others - {*host.settings.span_ports, *ray} | {22, host.connection.port})


def _ports_of_ray(settings: Settings) -> range:
    """Return the ports at which Ray listens; none where vLLM starts its processes by itself."""
    first, last = settings.ray_ports
    return range(first, last + 1) if settings.executor == "ray" else range(0)


def chosen_of(said: str) -> tuple[int, int]:
    """Return the first and the last of the ports that a system chooses from, by its text of `CHOSEN`; Linux's default where it has none."""
    found = re.fullmatch(r"\s*(\d+)\s+(\d+)\s*", said)
    return (int(found[1]), int(found[2])) if found else CHOSEN_PORTS
