"""The table of settings in docs/reference/inventory.md."""

from __future__ import annotations

from provision.core.models.settings import Settings

TARGET = "docs/reference/inventory.md"
TABLE = "settings"


def generate() -> str:
    """Return the table: a row for each inventory variable."""
    rows = ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        default = "" if field.default in (None, {}, ()) else field.default
        default = str(default).lower() if isinstance(default, bool) else default
        shown = f"`{default}`" if default != "" else ""
        rows.append(f"| `firstlight_{name}` | {shown} | {extra['allowed']} | {field.description} |")
    return "\n".join(rows)
