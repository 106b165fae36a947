"""A section that a feature adds to the page, before all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Section:
    """A template of the feature, and its values."""

    id: str
    title: str
    template: Path
    values: Mapping[str, Any]
