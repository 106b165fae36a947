"""The table of settings in docs/reference/inventory.md."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise

from provision.core.models.settings import Settings, allowed

TARGET = "docs/reference/inventory.md"
TABLE = "settings"


def generate() -> str:
    """Return the table: a row for each inventory variable."""
    meanings = _meanings()
    rows = ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        default = "" if default in (None, {}, ()) else default
        default = str(default).lower() if isinstance(default, bool) else default
        default = f"[{', '.join(default)}]" if isinstance(default, tuple) else default
        shown = f"`{default}`" if default != "" else ""
        rows.append(f"| `firstlight_{name}` | {shown} | {allowed(name)} | {meanings[name]} |")
    return "\n".join(rows)


def _meanings() -> dict[str, str]:
    """Return the text below each field of the class."""
    (found,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(found, ast.ClassDef)
    return {
        ast.unparse(field.target): ast.literal_eval(text.value)
        for field, text in pairwise(found.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
