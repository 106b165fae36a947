"""Which names of an inventory mean one machine, and which machines share an installation. Pure."""

from collections.abc import Iterable, Mapping

from provision.core.errors import InventoryError
from provision.core.grouping import gather
from provision.core.install_paths import install_paths_of
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


def shared_installations(hosts: Iterable[Host], facts: Mapping[str, HostFacts]) -> dict[str, InventoryError]:
    """Return by host the error that a user's installation there is that of another machine, as in a home on NFS.

    Copies of a machine that has root's installation serve with it, and a container has another name each time that it is made.
    """
    errors: dict[str, InventoryError] = {}
    for host in hosts:
        if host.name not in facts or not (installed := facts[host.name].installed):
            continue
        system, owner = facts[host.name].os, (installed.last_verify or {}).get("host")
        is_apart = facts[host.name].container or install_paths_of(host, facts[host.name]).root
        if not owner or not system.hostname or is_apart:
            continue
        # A machine may change between its short name and that with a domain.
        if owner.partition(".")[0] != system.hostname.partition(".")[0]:
            errors[host.name] = InventoryError(
                f"{installed.prefix} on host `{host.name}` is the installation of machine `{owner}`, and this is `{system.hostname}`",
                hint="set a firstlight_prefix for each machine, on a disk of its own; "
                f"if the machine was renamed, delete {installed.prefix}/verify/last.json there",
            )
    return errors
