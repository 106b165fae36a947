"""Rules of comparison from rules.toml: ignored values, and noise of figures."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from provision.core.models.records import Figure
from provision.core.tables import own_table

TABLE = Path(__file__).with_name("rules.toml")

Span: TypeAlias = tuple[float, float]
"""Smallest and largest value of a figure."""
Keys: TypeAlias = tuple[str, ...]
"""Path of a value: `facts`, `settings` or `stack`, field names, and `[identity]` for a list item."""


def _table() -> dict[str, Any]:
    return own_table(TABLE)


@cache
def _volatile() -> tuple[Keys, ...]:
    return tuple(tuple(path.split(".")) for row in _table()["volatile"] for path in row["paths"])


def is_volatile(keys: Keys) -> bool:
    """Return whether a fact changes on its own."""
    return any(_fits(pattern, keys) for pattern in _volatile())


def meaning(keys: Keys) -> str | None:
    """Return the meaning of a changed fact where its values do not show it."""
    return next((row["text"] for row in _table()["meaning"] if _fits(tuple(row["path"].split(".")), keys)), None)


def is_noise(keys: Keys, before: Any, after: Any) -> bool:
    """Whether two numbers differ by no more than such a fact does by itself."""
    share = next((row["share"] for row in _table()["noise"] if _fits(tuple(row["path"].split(".")), keys)), 0.0)
    return within(before, after, share=share)


def is_compared(figure: Figure, device: str | None) -> bool:
    """Return whether a figure is compared: it has a bound, or it is what a GPU or the service achieves."""
    has_bound = figure.floor is not None or figure.ceiling is not None
    return has_bound or (device != "cpu" and figure.unit not in _table()["figures"]["only_with_bound"])


def is_figure_noise(unit: str, earlier: Span, after: float) -> bool:
    """Return whether a figure is within the range of earlier green runs, widened by the noise of its unit."""
    figures = _table()["figures"]
    row = next((entry for entry in figures["unit"] if unit in entry["units"]), figures)
    low, high = earlier
    nearest = min(max(after, low), high)
    return within(nearest, after, share=row["share"], least=row.get("least", 0.0))


def green_runs() -> int:
    """Return the number of green runs whose figures count."""
    runs: int = _table()["figures"]["runs"]
    return runs


def within(before: Any, after: Any, *, share: float, least: float = 0.0) -> bool:
    """Return whether two numbers differ by at most a share of the earlier one, or by `least`; never for non-numbers."""
    if isinstance(before, bool) or isinstance(after, bool):
        return bool(before == after)
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        return False
    return abs(after - before) <= max(share * abs(before), least)


def identity(keys: Keys, item: dict[str, Any]) -> str | None:
    """Return the identity of a list item; None where only its position identifies it."""
    fields = _table()["identity"].get(".".join(keys))
    values = [item.get(field) for field in fields or ()]
    return ":".join(str(value) for value in values) if values and None not in values else None


def is_passing(keys: Keys, item: dict[str, Any]) -> bool:
    """Return whether a list item is temporary, such as an ephemeral port."""
    port = item.get("port")
    return keys == ("facts", "ports") and isinstance(port, int) and port >= _table()["ports"]["ephemeral_from"]


def _fits(pattern: Keys, keys: Keys) -> bool:
    """Return whether a pattern covers the path or one of its parents."""
    return len(pattern) <= len(keys) and all(part in ("*", key) for part, key in zip(pattern, keys, strict=False))
