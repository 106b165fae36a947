"""The JSON schema of `plan --why-not --json`."""

from __future__ import annotations

import json

from provision.phases.plan.explain import WhyNotDocument

TARGET = "docs/reference/why_not.schema.json"


def generate() -> str:
    """Return the schema of the answer to `--why-not`."""
    return json.dumps(WhyNotDocument.model_json_schema(mode="serialization"), indent=2) + "\n"
