"""Where firewalls take part in the work of the core: `plan` names their rules, which need packages, and the ports on which programs listen."""

from collections.abc import Sequence

from provision.core.models.inventory import Host
from provision.features.firewall.rules import PACKAGES
from provision.features.firewall.step import wants_rules as needs_full_probe
from provision.features.firewall.step import with_rules
from provision.run.results import PlannedHosts

__all__ = ["needed_packages", "needs_full_probe", "planned"]


def planned(hosts: Sequence[Host], _plan: PlannedHosts) -> dict[str, list[str]]:
    """Return the hosts whose firewalls a run sets, by what `plan` says of them."""
    names = [host.name for host in with_rules(hosts, hosts)]
    return {"firewall, closes the ports of the service to hosts that do not use them": names}


def needed_packages(hosts: Sequence[Host]) -> dict[str, list[str]]:
    """Return the OS packages that load the rules, by host."""
    return {host.name: [*PACKAGES] for host in with_rules(hosts, hosts)}
