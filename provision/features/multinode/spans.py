"""Which hosts of an inventory one model is spread over. Pure."""

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from provision.core.errors import InventoryError
from provision.core.grouping import gather
from provision.core.models.inventory import GATEWAY, MONITORING, Host, Span
from provision.fleet.inventory.addresses import is_ip
from provision.report.layout import count, quoted

OWN = frozenset(
    {"bind", "span_address", "health_port", "gpus", "metrics_bind", "metrics_port", "driver_source", "builder"}
)
"""Settings in which the hosts of a span may differ, besides those of gateways and monitoring."""
_OF_OTHERS = ("gateway_", "monitoring_", "alertmanager_")


def with_spans(hosts: Sequence[Host]) -> tuple[Host, ...]:
    """Return the hosts of a whole inventory, each with the span that it belongs to.

    Hosts of equal groups that want spans of equal size form them in inventory order; whether a host is also a gateway, or
    monitors, does not count. Raises InventoryError where they cannot be divided so, two of a span differ, or one has no address.
    """
    spans = {name: span for span in _spans(hosts) for name in span.members}
    return tuple(host.model_copy(update={"span": spans[host.name]}) if host.name in spans else host for host in hosts)


def _spans(hosts: Sequence[Host]) -> Iterator[Span]:
    alike = gather(
        ((host.settings.span, tuple(sorted(set(host.groups) - {GATEWAY, MONITORING}))), host)
        for host in hosts
        if host.settings.span > 1 and host.is_provisioned and host.settings.serves_model
    )
    for (size, groups), found in alike.items():
        if len(found) % size:
            where = f"group {quoted(groups)}" if groups else "the inventory"
            who = f"{count(len(found), 'host')} that {'serve' if len(found) > 1 else 'serves'} ({quoted(host.name for host in found)})"
            raise InventoryError(
                f"firstlight_span: {size}: {where} has {who}, which is no multiple of {size}",
                hint=f"give the group a multiple of {size} hosts, or set firstlight_span for {size} of them only",
            )
        for start in range(0, len(found), size):
            members = found[start : start + size]
            _require_equal(members)
            yield Span(members=tuple(host.name for host in members), addresses=tuple(map(_address, members)))


def _require_equal(members: Sequence[Host]) -> None:
    """Raise InventoryError for the first setting in which hosts of a span differ."""
    head, *others = members
    wanted = head.settings.model_dump()
    for other in others:
        for name, value in other.settings.model_dump().items():
            if name in OWN or name.startswith(_OF_OTHERS) or value == wanted[name]:
                continue
            shown = "" if name == "env" else f": {wanted[name]!r} and {value!r}"
            raise InventoryError(
                f"hosts `{head.name}` and `{other.name}` are to serve one model together, and differ in firstlight_{name}{shown}",
                hint="set it for the group, or let the two hosts serve different models",
            )


def _address(host: Host) -> str:
    address = host.settings.span_address or host.connection.address
    if address is None or not is_ip(address):
        why = f"its address `{address}` is a name" if address else "the inventory has no address of it"
        raise InventoryError(
            f"host `{host.name}` serves a model together with others, and {why}",
            hint="set firstlight_span_address to its IP address in the network between the hosts",
        )
    return str(ip_address(address))  # as the kernel names it when hosts meet
