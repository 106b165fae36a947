"""Which hosts differ from their equals: from the majority, or from one reference. Pure; the order of hosts decides nothing."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from provision.core.grouping import gather
from provision.features.host_comparison.values import HostValues, Value, is_same, part_of, parts


@dataclass(frozen=True)
class Difference:
    """One value in which hosts differ from the expected one; None means absent."""

    key: str
    expected: Value
    found: Value


@dataclass(frozen=True)
class Oddity:
    """Hosts with the same differences, which therefore have one cause."""

    hosts: tuple[str, ...]
    differences: tuple[Difference, ...]
    """The most telling first."""


@dataclass(frozen=True)
class Split:
    """Values that no majority of hosts has, for the same groups of hosts."""

    groups: tuple[tuple[str, ...], ...]
    values: tuple[tuple[str, tuple[Value, ...]], ...]
    """By path: the value of each group. The most telling first."""


@dataclass(frozen=True)
class Comparison:
    """What differs among hosts that should be equal."""

    hosts: tuple[str, ...]
    oddities: tuple[Oddity, ...]
    splits: tuple[Split, ...] = ()

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not self.oddities and not self.splits


def compare(hosts: Sequence[HostValues], reference: HostValues | None = None) -> Comparison:
    """Compare hosts with a reference, or without one with the value that more than half of them have.

    A value that a host could not read is not compared there.
    """
    hosts = sorted(hosts, key=lambda host: host.name)
    keys = {key for host in (*hosts, *((reference,) if reference else ())) for key in host.values}
    odd: dict[Difference, list[str]] = defaultdict(list)
    split: dict[tuple[tuple[str, ...], ...], dict[str, tuple[Value, ...]]] = defaultdict(dict)
    for key in sorted(keys):
        found = {host.name: host.values.get(key) for host in hosts if host.knows(key)}
        if reference is not None:
            if not reference.knows(key):
                continue
            expected, is_known = reference.values.get(key), True
        else:
            expected, is_known = majority(key, found.values())
        if is_known:
            for name, value in found.items():
                if not is_same(key, expected, value):
                    odd[Difference(key, expected, value)].append(name)
        elif found:
            groups = gather((json.dumps(value), name) for name, value in found.items())
            split[tuple(map(tuple, groups.values()))][key] = tuple(json.loads(value) for value in groups)
    return Comparison(tuple(host.name for host in hosts), _oddities(odd), _splits(split))


def majority(key: str, values: Iterable[Value]) -> tuple[Value, bool]:
    """Return the value that more than half have, and whether there is one."""
    listed = list(values)
    if all(value == listed[0] for value in listed):
        return (listed[0], True) if listed else (None, False)
    candidates = [json.loads(text) for text in sorted({json.dumps(value) for value in listed})]
    counts = [sum(is_same(key, candidate, value) for value in listed) for candidate in candidates]
    most = max(counts)
    return (candidates[counts.index(most)], True) if most * 2 > len(listed) else (None, False)


def _rank(key: str) -> tuple[int, str]:
    return parts().index(part_of(key)), key


def _outermost(keys: Collection[str]) -> list[str]:
    """Return paths in their order, without those below another: an absent item of a list lacks all its values."""
    left = [
        key for key in keys if not any(key[: place + 1] in keys for place, sign in enumerate(key[:-1]) if sign == "]")
    ]
    return sorted(left, key=_rank)


def _oddities(odd: Mapping[Difference, Sequence[str]]) -> tuple[Oddity, ...]:
    """Group differences by their hosts: the same hosts with several differences are one oddity."""
    by_hosts: dict[tuple[str, ...], dict[str, Difference]] = defaultdict(dict)
    for difference, names in odd.items():
        by_hosts[tuple(names)][difference.key] = difference
    found = [
        Oddity(names, tuple(differences[key] for key in _outermost(differences)))
        for names, differences in by_hosts.items()
    ]
    return tuple(sorted(found, key=lambda one: (_rank(one.differences[0].key), len(one.hosts), one.hosts)))


def _splits(split: Mapping[tuple[tuple[str, ...], ...], Mapping[str, tuple[Value, ...]]]) -> tuple[Split, ...]:
    found = [Split(groups, tuple((key, values[key]) for key in _outermost(values))) for groups, values in split.items()]
    return tuple(sorted(found, key=lambda one: (_rank(one.values[0][0]), one.groups)))
