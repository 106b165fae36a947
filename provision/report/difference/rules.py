"""What a comparison leaves out, and how far a number may move before it counts: read from rules.toml, once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from provision.core.tables import own_table

TABLE = Path(__file__).with_name("rules.toml")

Span: TypeAlias = tuple[float, float]
"""The least and the greatest value that a figure had."""
Keys: TypeAlias = tuple[str, ...]
"""Where a value stands: `facts`, `settings` or `stack`, names of fields, and `[identity]` for an item of a list."""


def _table() -> dict[str, Any]:
    return own_table(TABLE)


@cache
def _volatile() -> tuple[Keys, ...]:
    return tuple(tuple(path.split(".")) for row in _table()["volatile"] for path in row["paths"])


def is_volatile(keys: Keys) -> bool:
    """Whether a fact changes without anything having changed."""
    return any(_fits(pattern, keys) for pattern in _volatile())


def meaning(keys: Keys) -> str | None:
    """What the change of a fact means, where its values do not say it."""
    return next((row["text"] for row in _table()["meaning"] if _fits(tuple(row["path"].split(".")), keys)), None)


def is_noise(keys: Keys, before: Any, after: Any) -> bool:
    """Whether two numbers differ by no more than such a fact does by itself."""
    share = next((row["share"] for row in _table()["noise"] if _fits(tuple(row["path"].split(".")), keys)), 0.0)
    return within(before, after, share=share)


def is_figure_noise(unit: str, earlier: Span, after: float) -> bool:
    """Whether a figure lies within what green runs measured before, widened by what such a figure moves by itself."""
    figures = _table()["figures"]
    row = next((entry for entry in figures["unit"] if unit in entry["units"]), figures)
    low, high = earlier
    nearest = min(max(after, low), high)
    return within(nearest, after, share=row["share"], least=row.get("least", 0.0))


def green_runs() -> int:
    """Of how many green runs the figures are looked at."""
    runs: int = _table()["figures"]["runs"]
    return runs


def within(before: Any, after: Any, *, share: float, least: float = 0.0) -> bool:
    """Whether two numbers are nearer than a share of the earlier one, or than `least`; what is no number is near nothing."""
    if isinstance(before, bool) or isinstance(after, bool):
        return bool(before == after)
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        return False
    return abs(after - before) <= max(share * abs(before), least)


def identity(keys: Keys, item: dict[str, Any]) -> str | None:
    """What makes an item of a list the same in two runs; null where only its place does."""
    fields = _table()["identity"].get(".".join(keys))
    values = [item.get(field) for field in fields or ()]
    return ":".join(str(value) for value in values) if values and None not in values else None


def is_passing(keys: Keys, item: dict[str, Any]) -> bool:
    """Whether an item of a list is of a moment: a port that was given to whoever asked for any."""
    port = item.get("port")
    return keys == ("facts", "ports") and isinstance(port, int) and port >= _table()["ports"]["ephemeral_from"]


def _fits(pattern: Keys, keys: Keys) -> bool:
    """A pattern holds for what it names and for all below it."""
    return len(pattern) <= len(keys) and all(part in ("*", key) for part, key in zip(pattern, keys, strict=False))
