"""The comparable values of a host by dotted path, without those that must differ (keys.toml). Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from provision.core.models.facts import HostFacts
from provision.core.redaction import MASK
from provision.core.tables import own_table

TABLE = Path(__file__).with_name("keys.toml")
OTHER = "other"
"""Part of values that no row of keys.toml names."""
INSTALLED = "installed"
_INSTALLATION = re.compile(r"^installed(\[[^\]]*\])?(?=\.|$)")

Value: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class HostValues:
    """One host as it is compared."""

    name: str
    values: Mapping[str, Value]
    unread: Mapping[str, str]
    """Why values could not be read, by the path that they are below."""
    installations: tuple[str, ...] = (INSTALLED,)
    """The paths of its installations; it is not compared in those of others."""
    own: tuple[str, ...] = ()
    """Values that no other host can have, by path."""

    def knows(self, key: str) -> bool:
        """Return whether a value was read, or its absence seen."""
        installation = _INSTALLATION.match(key)
        if key in self.own or (installation and installation[0] not in self.installations):
            return False
        return key in self.values or not any(_pattern(path).match(key) for path in self.unread)


def values_of(facts: HostFacts, service: str | None = None) -> HostValues:
    """Return what is compared of a host.

    Args:
        service: The name of its service, where its machine has several: they are compared with those of the same name.
    """
    found = _values_of(facts)
    if service is None:
        return found
    place = f"{INSTALLED}[{service}]"

    def placed(path: str) -> str:
        return _INSTALLATION.sub(lambda _: place, path)

    return HostValues(
        found.name,
        {placed(key): value for key, value in found.values.items()},
        {placed(path): why for path, why in found.unread.items()},
        (place,),
        tuple(map(placed, found.own)),
    )


def of_machine(name: str, services: Sequence[HostValues]) -> HostValues:
    """Return what is compared of a machine, from the values of all its services: what they share counts once."""
    together = [(one.values, one.unread) for one in reversed(services)]
    return HostValues(
        name,
        {key: value for values, _ in together for key, value in values.items()},
        {path: why for _, unread in together for path, why in unread.items()},
        tuple(path for one in services for path in one.installations),
        tuple(path for one in services for path in one.own),
    )


def _values_of(facts: HostFacts) -> HostValues:
    document = facts.model_dump(mode="json")
    if facts.installed is not None:
        document[INSTALLED]["model"] = (facts.installed.state or {}).get("model")
    unread = dict(facts.unknown)
    if facts.configuration is None:
        unread["configuration"] = "it was not requested"
        if facts.os.systemd_state is None:
            unread["os.systemd_state"] = "it was not requested"
    values = dict(_flat("", document))
    masked = {key: "it was masked when it was kept" for key, value in values.items() if value == MASK}
    kept = {key: value for key, value in values.items() if key not in masked}
    own = (f"{INSTALLED}.release",) if _has_own_release(facts) else ()
    return HostValues(facts.host, kept, unread | masked, own=own)


def _has_own_release(facts: HostFacts) -> bool:
    """Return whether the release of a host names what no other host has: its place in a span, or UUIDs of GPUs or their slices."""
    state = (facts.installed and facts.installed.state) or {}
    is_in_span = any((state.get(part) or {}).get("in_span") for part in ("readiness", "member"))
    gpus = facts.nvidia.gpus if facts.nvidia else ()
    is_in_container = facts.installed is not None and facts.installed.image is not None
    return is_in_span or bool(gpus and is_in_container) or any(gpu.slices for gpu in gpus)


def cards_of(facts: HostFacts) -> tuple[str, ...]:
    """Return the kinds of a host's cards: hosts with the same ones are equals. Read from the bus, so that a broken driver changes nothing."""
    return tuple(sorted({f"{gpu.vendor_id}:{gpu.device_id}" for gpu in facts.pci_gpus}))


def label_of(hosts: Sequence[HostFacts]) -> str:
    """Return what a person calls the cards of equal hosts."""
    vendors = (vendor for facts in hosts for vendor in (facts.nvidia, facts.amd) if vendor)
    names = {gpu.name for vendor in vendors for gpu in vendor.gpus if gpu.name}
    return ", ".join(sorted(names) or cards_of(hosts[0])) or "no GPU"


def part_of(key: str) -> str:
    """Return the part that a value belongs to."""
    return next((name for name, pattern in _parts() if pattern.match(key)), OTHER)


def parts() -> tuple[str, ...]:
    """Return all parts, the most telling first."""
    return (*dict.fromkeys(name for name, _ in _parts()), OTHER)


def is_same(key: str, one: Value, two: Value) -> bool:
    """Return whether two values are equal, or two numbers within the noise of the value."""
    if one == two:
        return True
    if any(isinstance(value, bool | str | None) for value in (one, two)):
        return False
    rows = own_table(TABLE)["noise"]
    share: float = next((row["share"] for row in rows if _pattern(row["path"]).match(key)), 0.0)
    assert isinstance(one, int | float)
    assert isinstance(two, int | float)
    return abs(one - two) <= share * max(abs(one), abs(two))


def _flat(path: str, value: Any) -> Iterator[tuple[str, Value]]:
    """Yield all values below a path. Lists of plain values are sets: each of their items is there or not."""
    if value is None or (path and _is_ignored(path)):
        return
    head = f"{path}." if path else ""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{head}{key}", inner)
    elif isinstance(value, list):
        yield from _of_list(path, value)
    else:
        yield path, value


def _of_list(path: str, items: Sequence[Any]) -> Iterator[tuple[str, Value]]:
    field = own_table(TABLE)["identity"].get(path)
    for number, item in enumerate(items):
        if isinstance(item, Mapping):
            name = item.get(field) if field else None
            place = f"{path}[{number if name is None else name}]"
            yield place, True
            yield from _flat(place, {key: inner for key, inner in item.items() if key != field})
        else:
            yield f"{path}[{item}]", True


@cache
def _pattern(path: str) -> re.Pattern[str]:
    """Return a pattern of a path and all below it; `.*` is an item of a list as well as a name."""
    return re.compile(re.escape(path).replace(r"\.\*", r"(?:\.[^.\[]+|\[[^\]]*\])") + r"(?=[.\[]|$)")


@cache
def _is_ignored(path: str) -> bool:
    return any(_pattern(ignored).match(path) for row in own_table(TABLE)["ignored"] for ignored in row["paths"])


@cache
def _parts() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((row["name"], _pattern(path)) for row in own_table(TABLE)["part"] for path in row["paths"])
