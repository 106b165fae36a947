"""Which names of an inventory mean one machine. Pure."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from provision.core.errors import InventoryError
from provision.core.grouping import gather
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.redaction import redact

KeyT = TypeVar("KeyT", bound=Hashable)


def require_distinct(hosts: Sequence[Host]) -> None:
    """Raise InventoryError if two hosts that an environment is installed on are reached at one address and port; it names both."""
    reached = {
        host.machine: (connection.address.lower(), connection.port, connection.proxy_command)
        for host in hosts
        if host.is_provisioned and (connection := host.connection).kind == "ssh" and connection.address is not None
    }
    for (address, port, proxy), names in _shared(reached):
        through = f" through `{redact(proxy)}`" if proxy else ""
        raise _error(names, f"both are reached at {address} port {port}{through}")


def shared_machines(hosts: Iterable[Host], facts: Mapping[str, HostFacts]) -> dict[str, InventoryError]:
    """Return by host the error that it is the same machine as another name: its hostname and the id of its boot are equal.

    Containers on one machine may share the id of the boot, and have names of their own. Hosts that no environment is installed on are
    left out.
    """
    hosts = [*hosts]
    known = {
        host.machine: (system.hostname, system.boot_id)
        for host in hosts
        if host.is_provisioned and host.name in facts and (system := facts[host.name].os).boot_id and system.hostname
    }
    errors = {
        name: _error(names, f"both answer as `{hostname}` with boot id {boot_id}")
        for (hostname, boot_id), names in _shared(known)
        for name in names
    }
    return {host.name: errors[host.machine] for host in hosts if host.machine in errors}


def _shared(keys: Mapping[str, KeyT]) -> list[tuple[KeyT, list[str]]]:
    """Return each key that several hosts have, with their names."""
    by_key = gather((key, name) for name, key in keys.items())
    return [(key, names) for key, names in by_key.items() if len(names) > 1]


def _error(names: Sequence[str], why: str) -> InventoryError:
    listed = f"{', '.join(f'`{name}`' for name in names[:-1])} and `{names[-1]}`"
    return InventoryError(
        f"hosts {listed} are one machine: {why if len(names) == 2 else why.replace('both', 'all', 1)}",
        hint="keep one name with all groups and settings of the machine, and firstlight_services where it serves several models; "
        f"a run over one of them: --limit {names[0]}",
    )
