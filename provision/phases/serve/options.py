"""Table of vLLM's options by release (options.toml)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from packaging.version import Version

from provision.core.tables import own_table


def options() -> dict[str, Any]:
    """Return the table in options.toml."""
    return own_table(Path(__file__).with_name("options.toml"))


def has(feature: str, vllm_version: str) -> bool:
    """Return whether a release of vLLM has the option of a table row."""
    return Version(vllm_version) >= Version(options()[feature]["since"])
