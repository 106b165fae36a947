"""Several services of a host: each becomes a host of its own, named MACHINE@SERVICE, with a unit, a prefix and a port of its own. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from provision.core.errors import InventoryError, UsageError
from provision.core.models.inventory import GATEWAY, MONITORING, Host, Service
from provision.core.models.settings import ServiceName, Settings
from provision.fleet.inventory.settings import PREFIX, Problems

SETTING = f"{PREFIX}services"
HEALTH_AFTER = 9
"""The health agent of a service listens so many ports after its server, as the defaults of both have it."""
OF_MACHINE = frozenset(
    {
        *("services", "prefix", "driver", "driver_source", "driver_repository", "driver_key", "reboot"),
        *("cuda_toolkit", "container_toolkit", "mig", "firewall", "firewall_accept", "metrics_bind", "metrics_port"),
    }
)
"""Settings of a machine, besides those of gateways and monitoring: its services share them."""
_OF_OTHERS = ("gateway_", "monitoring_", "alertmanager_")
T = TypeVar("T", int, int | str)
_TERMS = re.compile(r"\s*,\s*|:(?![^\[]*\])")
"""What separates the terms of Ansible's patterns, outside ranges."""


def variables_by_host(machine: str, variables: Mapping[str, Any], problems: Problems) -> dict[str, dict[str, Any]]:
    """Return the variables of each host that a machine of the inventory stands for: those of its services, or its own.

    A value of `firstlight_services` that is no mapping of settings stays among them, where it is refused as any other setting.
    """
    try:
        services = TypeAdapter(dict[ServiceName, dict[str, Any]]).validate_python(variables.get(SETTING, {}))
    except ValidationError:
        services = {}
    if not services:
        return {machine: {**variables}}
    shared = {name: value for name, value in variables.items() if name != SETTING}
    found = {}
    for service, own in services.items():
        for name in own:
            plain = name.removeprefix(PREFIX)
            if is_of_machine(plain):
                text = f"service `{service}` sets {plain}, which all services of a machine share"
                problems.add(machine, SETTING, text, f"set {PREFIX}{plain} for the host")
            elif plain != name:
                text = f"service `{service}` sets {name}: settings of a service have no prefix"
                problems.add(machine, SETTING, text, f"write `{plain}`")
        found[f"{machine}@{service}"] = {**shared, **{f"{PREFIX}{name}": value for name, value in own.items()}}
    return found


def is_of_machine(setting: str) -> bool:
    """Return whether all services of a machine share a setting."""
    return setting in OF_MACHINE or setting.startswith(_OF_OTHERS)


def as_services(machine: str, hosts: Sequence[Host]) -> list[Host]:
    """Return the hosts that a machine stands for with their place among them; the only one of a machine without services as it is."""
    if [host.name for host in hosts] == [machine]:
        return [*hosts]
    settings = {host.name: _with_health_port(host.settings) for host in hosts}
    found = []
    for host in hosts:
        name = host.name.removeprefix(f"{machine}@")
        service = Service(name=name, machine=machine, services=tuple(settings.items()))
        found.append(host.model_copy(update={"settings": settings[host.name], "service": service}))
    _require_apart(machine, found)
    return found


def _with_health_port(settings: Settings) -> Settings:
    is_set = "health_port" in settings.model_fields_set
    return settings if is_set else settings.model_copy(update={"health_port": settings.port + HEALTH_AFTER})


def _require_apart(machine: str, hosts: Sequence[Host]) -> None:
    """Raise InventoryError where two services of a machine want the same port or GPU, or a service wants what services cannot have."""
    for host in hosts:
        assert host.service is not None
        if host.settings.span > 1:
            raise InventoryError(
                f"service `{host.service.name}` of host `{machine}` is to serve a model together with other hosts",
                hint=f"a machine of a span has one service: leave {PREFIX}span or {SETTING} out",
            )
    if others := {GATEWAY, MONITORING} & set(hosts[0].groups):
        raise InventoryError(
            f"host `{machine}` has services and is in group `{min(others)}`",
            hint="put another machine into that group; it reaches the services of this one",
        )
    if hosts[0].settings.firewall == "set":
        raise InventoryError(
            f"host `{machine}` has services, and {PREFIX}firewall: set knows one port of a machine",
            hint=f"leave {PREFIX}firewall out: the rules for its services are written into a file",
        )
    ports = [
        (port, f"{PREFIX}{name}", host)
        for host in hosts
        for name, port in (("port", host.settings.port), ("health_port", host.settings.health_port))
    ]
    for port, names, first, other in _twice(ports):
        raise InventoryError(
            f"services `{first}` and `{other}` of host `{machine}` both want port {port} ({names})",
            hint=f"give each a port of its own, such as {SETTING}: {{{other}: {{port: {port + 1}}}}}; the health agent listens {HEALTH_AFTER} ports after it",
        )
    cards = [(index, "", host) for host in hosts if host.settings.gpus != "all" for index in host.settings.gpus]
    # A whole GPU has all its slices.
    whole = {place for place, *_ in cards}
    of_gpu = [(int(str(place).partition(":")[0]), place, host) for place, _, host in cards]
    cards = [(index if index in whole else place, "", host) for index, place, host in of_gpu]
    for index, _, first, other in _twice(cards):
        raise InventoryError(
            f"services `{first}` and `{other}` of host `{machine}` both want GPU {index}",
            hint="name each GPU for one service, or leave gpus out: the plan divides the GPUs that no service names",
        )


def _twice(wanted: Sequence[tuple[T, str, Host]]) -> Iterator[tuple[T, str, str, str]]:
    """Yield each number that two services want, with how both call it, and the services."""
    owners: dict[T, tuple[str, Host]] = {}
    for number, name, host in wanted:
        assert host.service is not None
        before, first = owners.setdefault(number, (name, host))
        if first is not host and first.service is not None:
            yield number, " and ".join(dict.fromkeys((before, name))), first.service.name, host.service.name


class Limit(NamedTuple):
    """The services that a `--limit` names: MACHINE@SERVICE. A host of the inventory may have such a name too."""

    named: frozenset[str]
    """Of their machines these services alone are within the limit."""
    excluded: frozenset[str]
    others: frozenset[str]
    """Other terms: a machine that is one of them is within the limit as a whole."""

    def keeps(self, host: str, machine: str) -> bool:
        """Return whether a host is within the limit, whose machine is."""
        is_named = host in self.named or machine in self.others
        is_of_other = any(name.rpartition("@")[0] == machine for name in self.named)
        return host not in self.excluded and (is_named or not is_of_other)

    def require_known(self, hosts: Sequence[Host]) -> None:
        """Raise UsageError where it names a service that a machine does not have."""
        names = {host.machine: [name for name, _ in host.services] for host in hosts}
        for name in sorted((self.named | self.excluded) - {host.name for host in hosts}):
            if there := names.get(name.rpartition("@")[0]):
                raise UsageError(f"--limit: there is no service `{name}`", hint=f"there are: {', '.join(there)}")


def limit_of(text: str | None) -> Limit:
    """Return the services that a limit names."""
    terms = [term for term in _TERMS.split(text or "") if term[:1] != "~"]
    named = frozenset(term.lstrip("&") for term in terms if "@" in term and term[0] != "!")
    excluded = frozenset(term[1:] for term in terms if "@" in term and term[0] == "!")
    return Limit(named, excluded, frozenset(terms) - named)
