"""The published schema is the model's own, and what the page says of the script holds."""

from __future__ import annotations

import json
from pathlib import Path

from provision.core.models.facts import HostFacts

REFERENCE = Path(__file__).parents[2] / "docs/reference"


def test_published_schema_is_the_models() -> None:
    published = json.loads((REFERENCE / "facts.schema.json").read_text(encoding="utf-8"))
    assert published == HostFacts.model_json_schema(), (
        "write it anew: python -c 'import json; from provision.core.models.facts import HostFacts; "
        "print(json.dumps(HostFacts.model_json_schema(), indent=2))' > docs/reference/facts.schema.json"
    )


def test_page_names_every_top_level_fact() -> None:
    page = (REFERENCE / "facts.md").read_text(encoding="utf-8")
    assert [name for name in HostFacts.model_fields if f"`{name}`" not in page] == []
