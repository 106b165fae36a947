"""The page of facts is complete."""

from pathlib import Path

from provision.core.models.facts import HostFacts

REFERENCE = Path(__file__).parents[2] / "docs/reference"


def test_the_page_names_every_top_level_fact() -> None:
    page = (REFERENCE / "facts.md").read_text(encoding="utf-8")
    assert [name for name in HostFacts.model_fields if f"`{name}`" not in page] == []
