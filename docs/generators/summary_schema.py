"""The JSON schema of summary.json."""

from __future__ import annotations

import json

from provision.core.models.records import Summary

TARGET = "docs/reference/summary.schema.json"


def generate() -> str:
    """Return the schema of summary.json."""
    schema = Summary.model_json_schema(mode="serialization")
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"
