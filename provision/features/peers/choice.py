"""Which source the files of each host come from: what its settings say for their kind, and for `auto` other hosts where there are enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from provision.core.models.inventory import Host
from provision.core.models.settings import SourceKind
from provision.core.models.staged import FileKind, StagedFile
from provision.features.peers import access
from provision.features.peers.relay import FIRST

Way = Literal["controller", "peers", "host", "path"]

KINDS: Mapping[FileKind, SourceKind] = {"interpreter": "interpreter", "model": "model"}
"""All other files come as wheels do."""
ENOUGH_HOSTS = 4
"""From so many hosts on, `auto` lets them hand files on: the controller then sends at most half of all bytes."""


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


def choose(hosts: Sequence[Host], files: Mapping[str, Sequence[StagedFile]] | None = None) -> Choice:
    """Choose the hosts that hand files on, from their settings, and how they are reached."""
    sources = {host.name: _sources(host, files) for host in hosts}
    # Of services one for its machine: sshd takes the folder of the first entry that has the run's key.
    machines = {host.machine: host for host in reversed(hosts)}
    willing = [host for host in hosts if sources[host.name] & {"auto", "peers"} and machines[host.machine] is host]
    able = [host for host in willing if access.obstacle(host.connection) is None]
    least = FIRST + 1 if any("peers" in sources[host.name] for host in able) else ENOUGH_HOSTS
    if len(able) >= least:
        reason = f"{len(able)} hosts send files to each other; the controller sends to the first {FIRST} that need the same files"
        return Choice(frozenset(host.name for host in able), reason)
    if not willing:
        named = sorted(set().union(*sources.values())) or ["controller"]
        return Choice(frozenset(), f"firstlight_source is {' and '.join(f'`{name}`' for name in named)}")
    if len(able) < len(willing):
        out = next(host for host in willing if host not in able)
        why = f"of `{out.name}`, {access.obstacle(out.connection)}"
        return Choice(frozenset(), f"too few hosts reach each other: {why}")
    return Choice(frozenset(), f"hosts send files to each other if at least {least} need some")


def _sources(host: Host, files: Mapping[str, Sequence[StagedFile]] | None) -> frozenset[str]:
    """Return the sources of what a host needs; of all kinds while that is not known."""
    kinds = get_args(SourceKind) if files is None else {KINDS.get(file.kind, "wheels") for file in files[host.name]}
    return frozenset(host.source_of(kind) for kind in kinds)
