"""Where firewalls take part in the work of the core: `plan` names their rules, which need the ports on which programs listen."""

from collections.abc import Sequence

from provision.core.models.inventory import Host
from provision.features.firewall.step import wants_rules as needs_full_probe
from provision.features.firewall.step import with_rules
from provision.run.results import PlannedHosts

__all__ = ["needs_full_probe", "planned"]


def planned(hosts: Sequence[Host], _plan: PlannedHosts) -> dict[str, list[str]]:
    """Return the hosts whose firewalls a run sets, by what `plan` says of them."""
    names = [host.name for host in with_rules(hosts, hosts)]
    return {"firewall, closes the ports of the service to hosts that do not use them": names}
