"""The table of vLLM's spellings (options.toml), read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from provision.core.tables import own_table


def options() -> dict[str, Any]:
    """The table as it stands in the file beside this module."""
    return own_table(Path(__file__).with_name("options.toml"))


def has(feature: str, vllm_version: str) -> bool:
    """Whether this release of vLLM has the option of a table row."""
    from packaging.version import Version

    return Version(vllm_version) >= Version(options()[feature]["since"])
