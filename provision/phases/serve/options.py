"""The table of vLLM's spellings (options.toml), read once."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any


@cache
def options() -> dict[str, Any]:
    """The table as it stands in the file beside this module."""
    return tomllib.loads((Path(__file__).parent / "options.toml").read_text(encoding="utf-8"))


def has(feature: str, vllm_version: str) -> bool:
    """Whether this release of vLLM has the option of a table row."""
    from packaging.version import Version  # noqa: PLC0415  # only where a command is rendered

    return Version(vllm_version) >= Version(options()[feature]["since"])
