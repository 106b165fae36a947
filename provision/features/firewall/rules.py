"""Who may connect to the ports of a host that serves: rules for nftables. Pure."""

import ipaddress
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import TypeAlias

from provision.core.errors import InventoryError
from provision.core.grouping import gather
from provision.core.models.facts import Port
from provision.core.models.inventory import Host
from provision.core.unit_set import UnitSet, filled

READ_DEADLINE_S = 60.0
SSH_SERVER = "sshd"
PACKAGES = ("nftables",)
RULES = "rules.nft"
LOOPBACK = 'iifname "lo" accept'
REACH_S = 3
"""Seconds in which a connection is accepted, or counts as refused."""

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class RuleSet:
    """Rules in a table of their own, which a unit of their own loads."""

    name: str
    """Of its folder below the prefix."""
    unit: str
    table: str
    """Family and name of the table in nftables."""


FIREWALL = RuleSet("firewall", "firstlight-firewall.service", "inet firstlight")
"""The rules of a host."""
START = RuleSet("firewall-start", "firstlight-firewall-start.service", "inet firstlight_start")
"""Rules for the ports of a span that is about to start, until those of the host have them. They are apart, so that a host which returns to
its release of before still has the rules of that one."""


@dataclass(frozen=True)
class Opening:
    """Ports, and who may connect to them besides the host itself."""

    port: int
    sources: tuple[str, ...]
    """IP addresses and networks, each once."""
    last: int | None = None
    """The last port where `port` is the first of several."""
    address: str | None = None
    """The address of the host that it is about; None for all."""
    for_span: bool = False
    """Whether it is for the other hosts of a span."""

    def ports(self) -> str:
        """Return the port, or the first and the last one."""
        return str(self.port) if self.last in (None, self.port) else f"{self.port}-{self.last}"


def openings_of(
    host: Host,
    port: int | None,
    gateways: Collection[str] | None,
    monitors: Collection[str] | None,
    listening: Iterable[Port] = (),
) -> tuple[Opening, ...]:
    """Return the ports of a host that only some may connect to, in order; none where nobody is known to use them.

    Raises InventoryError where one of them is the port of SSH.

    Args:
        port: Port of its server; None where it serves nothing.
        gateways: Addresses from which gateways connect; None without a gateway, when anybody may use the server.
        monitors: Addresses from which monitoring hosts connect; None without one.
    """
    settings = host.settings
    accepted: dict[int, list[str]] = {}
    if port is not None and gateways is not None:
        accepted[port] = [*gateways, *(monitors or ()), *settings.firewall_accept]
        accepted[settings.health_port] = [*gateways, *settings.firewall_accept]
    if monitors is not None:
        accepted.setdefault(settings.metrics_port, []).extend((*monitors, *settings.firewall_accept))
    require_ssh_open(host, accepted, listening)
    return tuple(Opening(port, networks(sources)) for port, sources in sorted(accepted.items()))


def joined(found: Iterable[Sequence[Opening]]) -> tuple[Opening, ...]:
    """Return the openings of all services of a machine, each port once, with everybody who may connect to it."""
    by_port = gather((replace(one, sources=()), one.sources) for each in found for one in each)
    return tuple(replace(one, sources=networks(chain(*sources))) for one, sources in by_port.items())


def require_ssh_open(host: Host, ports: Collection[int], listening: Iterable[Port]) -> None:
    """Raise InventoryError where rules for some ports would close SSH, also where its server listens at others."""
    ssh_ports = (one.port for one in listening if one.process == SSH_SERVER)
    for closed in sorted({22, host.connection.port, *ssh_ports} & {*ports}):
        raise InventoryError(
            f"host `{host.name}`: port {closed} of a service is the port of SSH, which no rule may close",
            hint="set firstlight_port, firstlight_health_port, firstlight_metrics_port and firstlight_span_port to other ports",
        )


def networks(sources: Iterable[str]) -> tuple[str, ...]:
    """Return addresses and networks in order, without those within another one, which nftables refuses in a set."""
    found = {ipaddress.ip_network(source, strict=False) for source in sources}
    widest = [one for one in found if not any(one != other and _is_within(one, other) for other in found)]
    ordered = sorted(widest, key=lambda one: (one.version, int(one.network_address)))
    return tuple(str(one.network_address) if one.prefixlen == one.max_prefixlen else str(one) for one in ordered)


def _is_within(one: Network, other: Network) -> bool:
    return one.version == other.version and one.network_address in other and one.broadcast_address in other


def render(openings: Iterable[Opening], rule_set: RuleSet = FIREWALL) -> str:
    """Return the rules as a file of nftables, which replaces those of before in one step.

    Only packets that open a connection are looked at, and only those to the given ports: streams that run go on, and nothing
    else of the host is touched. Another firewall of the host still decides as well.
    """
    lines = "".join(f"        {rule}\n" for rule in _rules(openings))
    return f"""# Made by Firstlight; a change here is undone by the next run.
table {rule_set.table}
delete table {rule_set.table}
table {rule_set.table} {{
    chain input {{
        type filter hook input priority 0; policy accept;
{lines}    }}
}}
"""


def covers(rules: str, openings: Iterable[Opening]) -> bool:
    """Return whether a text that `render` made has the rules of some openings, maybe among others."""
    return {*_rules(openings)} <= {line.strip() for line in rules.splitlines()}


def widened(rules: str, openings: Iterable[Opening]) -> str:
    """Return a text that `render` made in which the sources of some openings are let in before anybody is refused."""
    first = f"        {LOOPBACK}\n"
    accepted = (rule for rule in _rules(openings) if rule.endswith(" accept") and rule != LOOPBACK)
    return rules.replace(first, first + "".join(f"        {rule}\n" for rule in accepted), 1)


def loaded_command(prefix: str) -> str:
    """Return a command that prints the rules of a host as `render` made them; nothing where they are not loaded."""
    path = shlex.quote(f"{prefix}/{FIREWALL.name}/current/{RULES}")
    return f"if nft list table {FIREWALL.table} >/dev/null 2>&1; then cat {path}; fi"


def _rules(openings: Iterable[Opening]) -> Iterator[str]:
    yield LOOPBACK
    for opening in openings:
        to = f"{_family(opening.address)} daddr {opening.address} " if opening.address else ""
        new = f"{to}tcp dport {opening.ports()} tcp flags & (syn | ack) == syn"
        for family, sources in groupby(sorted(opening.sources, key=_family), _family):
            yield f"{new} {family} saddr {{ {', '.join(sources)} }} accept"
        yield f"{new} reject with tcp reset"


def _family(address: str) -> str:
    return "ip6" if ":" in address else "ip"


def firewall_set(openings: Sequence[Opening], prefix: str, rule_set: RuleSet = FIREWALL) -> UnitSet:
    """Return the rules and the unit that loads them."""
    path, name = Path(__file__).with_name(FIREWALL.unit), rule_set.unit.removesuffix(".service")
    unit = filled(path, folder=f"{prefix}/{rule_set.name}", table=rule_set.table, name=name)
    return UnitSet(
        name=rule_set.name,
        files={RULES: render(openings, rule_set)},
        units={rule_set.unit: unit},
        packages=PACKAGES,
        checks=(("nft", "-c", "-f", RULES),),
        proofs=(("nft", "list", "table", *rule_set.table.split()),),
    )


def source_command(targets: Iterable[tuple[str, str]]) -> str:
    """Return a command that prints from which addresses a host connects to others, given by name with an address each."""
    asked = [
        f"getent ahosts {shlex.quote(address)} | cut -d ' ' -f 1 | sort -u | "
        f'while read -r to; do echo {shlex.quote(name)} "$(ip -o route get "$to")"; done'
        for name, address in targets
    ]
    return "; ".join(asked)


def sources_of(said: str) -> dict[str, tuple[str, ...]]:
    """Return the addresses from which a host connects to others, by their names, from what `source_command` printed on it."""
    found: dict[str, set[str]] = {}
    for name, _, route in (line.partition(" ") for line in said.splitlines()):
        source = re.search(r"\bsrc (\S+)", route)
        if source and not ipaddress.ip_address(source[1]).is_loopback:
            found.setdefault(name, set()).add(source[1])
    return {name: tuple(sorted(sources)) for name, sources in found.items()}


def reach_command(targets: Mapping[str, tuple[str, int]]) -> str:
    """Return a command that prints which of some hosts, given by name with address and port, accept a connection."""
    asked = [
        f"(timeout {REACH_S} bash -c {shlex.quote(f'exec 3<>/dev/tcp/{address}/{port}')} 2>/dev/null && echo {shlex.quote(name)}) &"
        for name, (address, port) in targets.items()
    ]
    return "\n".join((*asked, "wait"))


def require_root(host: Host, *, root: bool) -> None:
    """Raise InventoryError where the run is not root on a host, so that rules cannot be loaded there."""
    if not root:
        raise InventoryError(
            f"host `{host.name}`: rules of its firewall need root",
            hint="log in as root, or set ansible_become: true; firstlight_firewall: tell changes nothing",
        )
