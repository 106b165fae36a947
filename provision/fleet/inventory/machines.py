"""Which names of an inventory mean one machine. Pure."""

from collections.abc import Iterable, Mapping

from provision.core.errors import InventoryError
from provision.core.grouping import gather
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host


def shared_machines(hosts: Iterable[Host], facts: Mapping[str, HostFacts]) -> dict[str, InventoryError]:
    """Return by host the error that it is the same machine as another name: its hostname and the id of its boot are equal.

    Containers on one machine may share the id of the boot, and have names of their own. Hosts that no environment is installed on are
    left out.
    """
    hosts = [*hosts]
    names_of = gather(
        ((system.hostname, system.boot_id), host.machine)
        for host in hosts
        if host.is_provisioned and host.name in facts and (system := facts[host.name].os).boot_id and system.hostname
    )
    errors: dict[str, InventoryError] = {}
    for (hostname, boot_id), found in names_of.items():
        names = [*dict.fromkeys(found)]
        if len(names) > 1:
            listed = f"{', '.join(f'`{name}`' for name in names[:-1])} and `{names[-1]}`"
            error = InventoryError(
                f"hosts {listed} are one machine: all answer as `{hostname}` with boot id {boot_id}",
                hint="keep one name with all groups and settings of the machine, and firstlight_services where it serves several models; "
                f"a run over one of them: --limit {names[0]}",
            )
            errors |= dict.fromkeys(names, error)
    return {host.name: errors[host.machine] for host in hosts if host.machine in errors}
