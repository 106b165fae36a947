"""Which source the files of each host come from: what its settings say for their kind, and for `auto` what is quicker.

Hosts hand files on where that is set, or where it takes less time by the bandwidth that the first transfers of the run had.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, get_args

from provision.core.formatting import format_bytes
from provision.core.models.inventory import Host
from provision.core.models.settings import SourceKind
from provision.core.models.staged import FileKind, StagedFile
from provision.features.peers import access
from provision.features.peers.relay import AT_ONCE, FIRST

Way = Literal["controller", "peers", "host", "path"]

KINDS: Mapping[FileKind, SourceKind] = {"interpreter": "interpreter", "model": "model"}
"""All other files come as wheels do."""
ENOUGH_HOSTS = 4
"""From so many hosts on, `auto` lets them hand on files where no bandwidth is known: the controller then sends at most half of all bytes."""
HANDOVER_S = 2.0
"""Seconds until a host gets the first byte of another: the source's key and the connection. Estimated, not measured."""
BETWEEN_BYTES_S = 110e6
"""Bytes a second that hosts of one network are taken to exchange at least: 1 Gbit/s without the headers of packets. Not measured."""


@dataclass(frozen=True)
class Choice:
    """The hosts that hand files on to each other, and why these or none."""

    names: frozenset[str]
    reason: str


def way_of(host: Host, file: StagedFile, choice: Choice) -> Way:
    """Return where a file of a host comes from. What its own source cannot have is sent by the controller."""
    source = host.source_of(KINDS.get(file.kind, "wheels"))
    if source == "host":
        return "host" if file.kind == "wheel" or file.hub_path else "controller"
    if source == "path":
        return "path"
    return "peers" if host.name in choice.names and source != "controller" else "controller"


def choose(
    hosts: Sequence[Host], files: Mapping[str, Sequence[StagedFile]] | None = None, bytes_s: float | None = None
) -> Choice:
    """Choose the hosts that hand files on, from their settings, how they are reached, and what is quicker, as far as that is known."""
    sources = {host.name: _sources(host, files) for host in hosts}
    # Of services one for its machine: sshd takes the folder of the first entry that has the run's key.
    machines = {host.machine: host for host in reversed(hosts)}
    willing = [host for host in hosts if sources[host.name] & {"auto", "peers"} and machines[host.machine] is host]
    able = [host for host in willing if access.obstacle(host.connection) is None]
    asked = any("peers" in sources[host.name] for host in able)
    names = frozenset(host.name for host in able)
    handed_on = f"{len(able)} hosts send files to each other; the controller sends to the first {FIRST} that need the same files"
    if asked and len(able) > FIRST:
        return Choice(names, handed_on)
    if bytes_s and files and not asked and len(able) > FIRST:
        mean = sum(file.size for host in able for file in files[host.name]) / len(able)
        alone, together = controller_s(len(able), mean, bytes_s), handed_on_s(len(able), mean, bytes_s)
        took = f"at {format_bytes(round(bytes_s))}/s, {alone:.0f} s from the controller and {together:.0f} s from host to host were expected"
        return Choice(names, f"{handed_on}: {took}") if together < alone else Choice(frozenset(), took)
    if len(able) >= ENOUGH_HOSTS:
        return Choice(names, handed_on)
    if not willing:
        named = sorted(set().union(*sources.values())) or ["controller"]
        return Choice(frozenset(), f"firstlight_source is {' and '.join(f'`{name}`' for name in named)}")
    if len(able) < len(willing):
        out = next(host for host in willing if host not in able)
        why = f"of `{out.name}`, {access.obstacle(out.connection)}"
        return Choice(frozenset(), f"too few hosts reach each other: {why}")
    least = FIRST + 1 if asked else ENOUGH_HOSTS
    return Choice(frozenset(), f"hosts send files to each other if at least {least} need some")


def controller_s(hosts: int, size: float, bytes_s: float) -> float:
    """Return the seconds that the controller needs to send as many bytes to each host."""
    return hosts * size / bytes_s


def handed_on_s(hosts: int, size: float, bytes_s: float) -> float:
    """Return the seconds until all hosts have as many bytes where the first ones hand them on, round by round."""
    seconds, there = controller_s(min(hosts, FIRST), size, bytes_s), min(hosts, FIRST)
    while there < hosts:
        served = min(hosts - there, there * AT_ONCE)
        seconds += HANDOVER_S + ceil(served / there) * size / max(bytes_s, BETWEEN_BYTES_S)
        there += served
    return seconds


def _sources(host: Host, files: Mapping[str, Sequence[StagedFile]] | None) -> frozenset[str]:
    """Return the sources of what a host needs; of all kinds while that is not known."""
    kinds = get_args(SourceKind) if files is None else {KINDS.get(file.kind, "wheels") for file in files[host.name]}
    return frozenset(host.source_of(kind) for kind in kinds)
