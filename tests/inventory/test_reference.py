"""The reference page holds every setting as the model has it."""

from __future__ import annotations

from pathlib import Path

from provision.core.models.settings import Settings

PAGE = Path(__file__).parents[2] / "docs/reference/inventory.md"


def table() -> str:
    """The page's table, made of the model."""
    rows = ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        default = "" if field.default in (None, {}, ()) else field.default
        default = str(default).lower() if isinstance(default, bool) else default
        shown = f"`{default}`" if default != "" else ""
        rows.append(f"| `firstlight_{name}` | {shown} | {extra['allowed']} | {field.description} |")
    return "\n".join(rows)


def test_the_page_holds_the_table() -> None:
    expected = table()
    assert expected in PAGE.read_text(encoding="utf-8"), f"docs/reference/inventory.md wants this table:\n{expected}"
