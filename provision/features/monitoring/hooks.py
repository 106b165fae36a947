"""Where monitoring takes part in the work of the core: `plan` and `status` name monitoring hosts."""

from collections.abc import Sequence

from provision.core.models.inventory import Host
from provision.features.monitoring.unit_sets import EXPORTER_PACKAGES, PACKAGES
from provision.fleet.inventory.addresses import own_address, with_port
from provision.pipeline.host_status import StatusPart
from provision.run.context import RunContext
from provision.run.results import PlannedHosts, ProbedHosts


def planned(hosts: Sequence[Host], _plan: PlannedHosts) -> dict[str, list[str]]:
    """Return the monitoring hosts, by what `plan` says of them."""
    return {"monitoring, Prometheus and Alertmanager": [host.name for host in hosts if host.is_monitoring]}


def needed_packages(hosts: Sequence[Host]) -> dict[str, list[str]]:
    """Return the OS packages of monitoring hosts, and of the hosts that they monitor, by host."""
    if not any(host.is_monitoring for host in hosts):
        return {}
    return {host.name: [*(PACKAGES if host.is_monitoring else ()), *EXPORTER_PACKAGES] for host in hosts}


def status(context: RunContext, probed: ProbedHosts) -> dict[str, StatusPart]:
    """Return what is known of the monitoring hosts among those that were probed, and that others are none."""
    parts = {name: StatusPart({"monitoring": None}) for name in probed.facts}
    for host in [host for host in context.hosts() if host.is_monitoring and host.name in probed.facts]:
        facts, settings = probed.facts[host.name], host.settings
        url = f"http://{with_port(own_address(settings.monitoring_bind), settings.monitoring_port)}"
        is_known = "ports" not in facts.unknown
        listens = any(port.port == settings.monitoring_port for port in facts.ports) if is_known else None
        text = f"nothing listens at {url}" if listens is False else f"Prometheus at {url}"
        document = {"monitoring": {"prometheus": url, "listens": listens}}
        parts[host.name] = StatusPart(document, f"monitoring host, {text}")
    return parts
