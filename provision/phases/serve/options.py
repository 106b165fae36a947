"""Table of vLLM's options by release (options.toml), and the switches that keep it from writing to another GPU's memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

from provision.core.models.settings import option_of
from provision.core.tables import own_table


def options() -> dict[str, Any]:
    """Return the table in options.toml."""
    return own_table(Path(__file__).with_name("options.toml"))


def has(feature: str, vllm_version: str) -> bool:
    """Return whether a release of vLLM has the option of a table row."""
    return Version(vllm_version) >= Version(options()[feature]["since"])


def peer_write_switches(version: str) -> dict[str, str]:
    """Return the variables that switch off peer writes in a release of vLLM."""
    rows = options()["no_peer_writes"]["environment"]
    return {name: row["value"] for name, row in rows.items() if Version(version) >= Version(row["since"])}


def without_peer_writes(version: str, given: Sequence[str]) -> tuple[str, ...]:
    """Return the user's arguments of `vllm serve` plus options against peer writes; the user's own choices win.

    vLLM uses only the last of several compiler settings, so the addition is merged into the user's own one.
    """
    row = options()["no_peer_writes"]
    own = (row["option"],) if row["option"] not in given else ()
    field = row["fusion"]["field"]
    if Version(version) < Version(row["fusion"]["since"]) or any(field in word for word in given):
        return (*own, *given)
    names = row["compilation"]
    for place, word in enumerate(given):
        option, assigned, value = word.partition("=")
        if option_of(option) not in names:
            continue
        end = place + 1 if assigned else place + 2
        merged = _merged(value if assigned else "".join(given[place + 1 : end]), field)
        return (*own, *given[:place], option, merged, *given[end:])
    dotted = (word.split(".", 1)[0] for word in given)
    name = next((found for found in dotted if option_of(found) in names), names[0])
    return (*own, *given, f"{name}.pass_config.{field}=false")


def _merged(text: str, field: str) -> str:
    """Return the user's JSON object with the field off; unchanged text if it is no object, which vLLM then rejects."""
    try:
        content: Any = json.loads(text)
    except ValueError:
        return text
    if not isinstance(content, dict) or not isinstance(content.get("pass_config", {}), dict):
        return text
    return json.dumps({**content, "pass_config": {**content.get("pass_config", {}), field: False}})
