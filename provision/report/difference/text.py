"""Differences as text: hosts with equal changes together, one change a line."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from provision.core.formatting import format_bytes
from provision.core.grouping import gather
from provision.core.models.records import Change, HostDifference
from provision.report.layout import fold_names, number, wrap

INDENT = "  "
MOST_ITEMS = 6
"""Maximum number of named items of a changed list."""


def render(differences: Sequence[HostDifference]) -> str:
    """Return all differences as text, ending in a newline."""
    lines: list[str] = []
    for names, entry in grouped(differences):
        lines += ([""] if lines else []) + wrap(f"{names}: {_compared(entry)}")
        lines += changes(entry)
    return "\n".join(lines) + "\n"


def grouped(differences: Iterable[HostDifference]) -> Iterator[tuple[str, HostDifference]]:
    """Yield hosts with equal changes by their short names, with the first one's difference."""
    for entries in gather((entry.model_dump_json(exclude={"host"}), entry) for entry in differences).values():
        yield fold_names([entry.host for entry in entries]), entries[0]


def _compared(entry: HostDifference) -> str:
    if entry.before is None:
        return f"nothing to compare with before run {entry.after}"
    message = f"{len(entry.changes)} changed" if entry.changes else "nothing changed"
    return f"{message} from run {entry.before} to run {entry.after}"


def changes(entry: HostDifference, *, indent: str = INDENT, most: int | None = None) -> Iterator[str]:
    """Yield one line for each change, at most `most`, then unknown parts."""
    for change in entry.changes[:most]:
        yield from wrap(f"{change.part}: {sentence(change)}", first=indent, rest=indent + INDENT * 2)
    left_out = len(entry.changes) - most if most is not None else 0
    if left_out > 0:
        yield from wrap(f"and {left_out} more: ./firstlight logs diff {entry.before} {entry.after}", first=indent)
    for unknown in entry.unknown:
        yield from wrap(f"unknown: {unknown}", first=indent, rest=indent + INDENT * 2)


def sentence(change: Change) -> str:
    """Describe a change: `os.kernel 6.1.0-25-amd64 -> 6.1.0-28-amd64`."""
    if change.part == "state":
        return f"{change.before} -> {change.after}"
    if change.text and change.part == "facts":
        return change.text
    after = f" ({change.text})" if change.text else ""
    if isinstance(change.before, list) or isinstance(change.after, list):
        message = [
            f"{word} {_items(items)}" for word, items in (("removed", change.before), ("added", change.after)) if items
        ]
        return f"{change.name}: {'; '.join(message)}{after}"
    if change.before is None:
        return f"{change.name}: added: {_value(change, change.after)}{after}"
    if change.after is None:
        return f"{change.name}: removed, was {_value(change, change.before)}{after}"
    unit = f" {change.unit}" if change.unit else ""
    return (
        f"{change.name}: {_value(change, change.before)} -> {_value(change, change.after)}{unit}{_moved(change)}{after}"
    )


def _moved(change: Change) -> str:
    """Return the relative change of a figure."""
    before, after = change.before, change.after
    if change.part != "figures" or not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        return ""
    return f" ({(after / before - 1):+.0%})" if before else ""


def _items(items: Any) -> str:
    values = [str(item) for item in (items if isinstance(items, list) else [items])]
    more = f" and {len(values) - MOST_ITEMS} more" if len(values) > MOST_ITEMS else ""
    return ", ".join(values[:MOST_ITEMS]) + more


def _value(change: Change, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    is_bytes = change.part == "facts" and isinstance(value, int) and value >= 2**20
    return format_bytes(value) if is_bytes else str(value)
