"""Comparisons of hosts as text and as JSON. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provision.core.grouping import gather
from provision.features.host_comparison.compare import Comparison, Oddity, Split
from provision.features.host_comparison.values import Value, part_of, parts
from provision.report.layout import clean, count, fold_names

MOST_SHOWN = 3
"""Differences of one cause that are shown whole; the others are counted."""
LONGEST = 60
INDENT = "  "
MAJORITY = "their majority"


@dataclass(frozen=True)
class ComparedClass:
    """Equal hosts, and what differs among them."""

    label: str
    """Their cards."""
    against: str
    """What they were compared with."""
    comparison: Comparison
    unread: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Why values could not be read, by host and path."""


def render(classes: Sequence[ComparedClass]) -> str:
    """Return what a person reads: one line a cause."""
    return "\n".join(f"{indent}{clean(line)}" for compared in classes for indent, line in _lines(compared))


def _lines(compared: ComparedClass) -> Iterator[tuple[str, str]]:
    """Yield indent and text of each line."""
    hosts = compared.comparison.hosts
    if compared.against == MAJORITY and len(hosts) == 1:
        yield "", f"{compared.label}: {hosts[0]} is the only such host: there is nothing to compare it with"
        return
    yield "", f"{compared.label}: {count(len(hosts), 'host')}, compared with {compared.against}"
    for oddity in compared.comparison.oddities:
        yield INDENT, f"{_named(oddity.hosts)}: {_of_oddity(oddity)}"
    for split in compared.comparison.splits:
        yield INDENT, f"no majority: {_of_split(split)}"
    if compared.comparison.is_equal:
        yield INDENT, "no difference"
    for why, names in _unread(compared.unread).items():
        yield INDENT, f"not compared: {_named(names)}: {why}"


def _named(names: Sequence[str]) -> str:
    return fold_names(names) + (f" ({len(names)} hosts)" if len(names) > 1 else "")


def _of_oddity(oddity: Oddity) -> str:
    shown = [
        f"{_key(one.key)} is {_shown(one.found)}, expected {_shown(one.expected)}"
        for one in oddity.differences[:MOST_SHOWN]
    ]
    return "; ".join([*shown, *_more(part_of(difference.key) for difference in oddity.differences[MOST_SHOWN:])])


def _of_split(split: Split) -> str:
    key, values = split.values[0]
    groups = [f"{_shown(value)} on {_named(names)}" for value, names in zip(values, split.groups, strict=True)]
    hidden = [f"{len(groups) - MOST_SHOWN} other values"] if len(groups) > MOST_SHOWN else []
    more = _more(part_of(key) for key, _ in split.values[1:])
    return "; ".join([f"{_key(key)} is {', '.join([*groups[:MOST_SHOWN], *hidden])}", *more])


def _more(kinds: Iterable[str]) -> list[str]:
    """Return how many other values differ, by part, as the last piece of a line."""
    counted = Counter(kinds)
    by_part = ", ".join(f"{counted[name]} in {name}" for name in parts() if counted[name])
    return [f"{count(counted.total(), 'more difference')}: {by_part}"] if counted else []


def _key(key: str) -> str:
    return key.removeprefix("configuration.")


def _shown(value: Value) -> str:
    if value is None or value is True:
        return "absent" if value is None else "there"
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _unread(unread: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    listed = ((name, path, why) for name, reasons in sorted(unread.items()) for path, why in reasons.items())
    return gather((f"{_key(path)}: {why}", name) for name, path, why in listed)


def document(classes: Sequence[ComparedClass]) -> dict[str, Any]:
    """Return all differences, ready for JSON."""
    return {"classes": [_document(compared) for compared in classes]}


def _document(compared: ComparedClass) -> dict[str, Any]:
    odd = [
        {
            "hosts": list(one.hosts),
            "differences": [{"part": part_of(each.key), **vars(each)} for each in one.differences],
        }
        for one in compared.comparison.oddities
    ]
    split = [
        {
            "groups": [list(names) for names in one.groups],
            "values": [{"part": part_of(key), "key": key, "found": list(values)} for key, values in one.values],
        }
        for one in compared.comparison.splits
    ]
    return {
        "cards": compared.label,
        "hosts": list(compared.comparison.hosts),
        "against": compared.against,
        "odd": odd,
        "without_majority": split,
        "not_compared": {name: dict(reasons) for name, reasons in compared.unread.items()},
    }
