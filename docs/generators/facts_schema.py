"""The JSON schema of a host's facts."""

from __future__ import annotations

import json

from provision.core.models.facts import HostFacts

TARGET = "docs/reference/facts.schema.json"


def generate() -> str:
    """Return the schema of `probe --json`."""
    return json.dumps(HostFacts.model_json_schema(), indent=2) + "\n"
