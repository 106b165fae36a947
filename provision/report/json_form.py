"""The summary as JSON, and the schema that is published for it."""

from __future__ import annotations

import json
import sys
from typing import Any

from provision.core.models.records import Summary


def render(summary: Summary) -> str:
    """One document, ending in a newline; a number that JSON cannot hold is null."""
    return summary.model_dump_json(indent=2) + "\n"


def schema() -> dict[str, Any]:
    """JSON schema of the document (docs/reference/summary.schema.json)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Summary.model_json_schema(mode="serialization"),
    }


def schema_text() -> str:
    """The schema as it is published."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
