"""Which addresses Prometheus reads, from the inventory and from what hosts serve. Pure."""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from provision.core.models.inventory import Host
from provision.fleet.inventory.addresses import (
    EVERYWHERE,
    OUTSIDE,
    address_from,
    gateway_endpoint,
    metrics_bind,
    with_port,
)
from provision.run.served import Served

Job = Literal["vllm", "node", "cards", "gateway", "probe"]
KEYED = {"__firstlight_key": "required"}
"""Label of a target that asks for an API key. Prometheus removes it after relabelling, which can choose by it."""
JOBS: tuple[Job, ...] = ("vllm", "node", "cards", "gateway", "probe")
"""Kinds of targets, by which Prometheus labels their metrics."""


@dataclass(frozen=True)
class Target:
    """One address that Prometheus reads."""

    job: Job
    host: str
    """Name in the inventory."""
    address: str
    """Address and port, as the monitoring host reaches them; of `probe` a URL."""
    model: str | None = None
    """Name of the model in the API; None where none is served there."""
    key: str | None = field(default=None, repr=False)
    """API key that it asks for."""


@dataclass(frozen=True)
class Found:
    """The targets of a monitoring host, and what it cannot read."""

    targets: tuple[Target, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    """Why metrics of a host are missing, by the host's name."""


def find_targets(
    viewer: Host,
    hosts: Sequence[Host],
    served: Mapping[str, Served | None],
    without_exporter: Mapping[str, str],
    *,
    known: Iterable[Target] = (),
    card_ports: Mapping[str, Sequence[int]] | None = None,
) -> Found:
    """Return the targets of a monitoring host.

    Args:
        served: What hosts said that they serve, None for nothing; those that did not answer are missing.
        without_exporter: Why a host has no node exporter, by its name.
        known: Targets from before; they stay for a host that did not answer: what is to serve, so that its absence is noticed, and exporters of cards.
        card_ports: Ports at which an exporter of a card vendor listens, by host that answered.
    """
    monitors = [host for host in hosts if host.is_monitoring]
    known, card_ports = [*known], card_ports or {}
    before = {target.host: target for target in known if target.job == "vllm"}
    away = {host.name for host in hosts} - card_ports.keys()
    targets = [target for target in known if target.job == "cards" and target.host in away]
    missing: dict[str, str] = {}
    for host in hosts:
        if (said := served.get(host.name)) is not None:
            if (address := address_from(viewer, host, said.bind)) is None:
                missing[host.name] = f"vLLM listens on {said.bind}"
            else:
                targets.append(Target("vllm", host.name, with_port(address, said.port), said.model, said.key))
        elif host.name in before and host.name not in served and host.is_serving:
            targets.append(before[host.name])
        offered: list[tuple[Job, int]] = []
        if not host.is_first:
            continue
        if host.name in without_exporter:
            missing.setdefault(host.name, without_exporter[host.name])
        else:
            offered.append(("node", host.settings.metrics_port))
        offered += [("cards", port) for port in card_ports.get(host.name, ())]
        if host.is_gateway:
            offered.append(("gateway", host.settings.gateway_metrics_port))
            if (clients := address_from(viewer, host, host.settings.gateway_bind)) is not None:
                url = gateway_endpoint(host, clients).removesuffix("/v1")
                targets.append(Target("probe", host.name, f"{url}/health"))
        bind = metrics_bind(host, monitors)
        address = address_from(viewer, host, bind) if offered else None
        if offered and address is None:
            unknown = bind in EVERYWHERE and not host.connection.address
            why = "no address of it is known here" if unknown else f"its exporters listen on {bind}"
            missing.setdefault(host.name, why)
            continue
        targets += [Target(job, host.name, with_port(str(address), port)) for job, port in offered]
    return Found(tuple(targets), missing)


def outside_targets(
    hosts: Sequence[Host],
    served: Mapping[str, Served | None],
    card_ports: Mapping[str, Sequence[int]],
    without_exporter: Mapping[str, str],
) -> Found:
    """Return what a machine outside of the inventory may read; arguments as for `find_targets`.

    Gateways and node exporters offer metrics only where the inventory has monitoring hosts. Probes of gateways are left out: they
    need a blackbox exporter.
    """
    is_monitored = any(host.is_monitoring for host in hosts)
    why = "no node exporter: the inventory has no group `monitoring`"
    without = without_exporter if is_monitored else {host.name: why for host in hosts}
    found = find_targets(OUTSIDE, hosts, served, without, card_ports=card_ports)
    jobs = ("vllm", "node", "cards", "gateway") if is_monitored else ("vllm", "cards")
    return Found(tuple(target for target in found.targets if target.job in jobs), found.missing)


def render_targets(
    targets: Iterable[Target], *, indent: int | None = None, keyed: Mapping[str, str] | None = None
) -> str:
    """Return targets in Prometheus' form (file_sd), by job and host; `keyed` are more labels of those that ask for an API key."""
    entries = []
    for target in sorted(targets, key=lambda one: (one.job, one.host)):
        labels = {"job": target.job, "host": target.host} | ({"model": target.model} if target.model else {})
        if keyed and target.key is not None:
            labels |= keyed
        entries.append({"targets": [target.address], "labels": labels})
    return json.dumps(entries, indent=indent) + "\n"


def parse_targets(text: str, keys: Mapping[str, str]) -> tuple[Target, ...]:
    """Return the targets in files of `render_targets`, with the API keys of hosts; none of a line that cannot be read."""
    found: list[Target] = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError, IndexError, AttributeError):
            for entry in json.loads(line):
                labels, host = entry["labels"], entry["labels"]["host"]
                found.append(Target(labels["job"], host, entry["targets"][0], labels.get("model"), keys.get(host)))
    return tuple(found)
