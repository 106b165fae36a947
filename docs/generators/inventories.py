"""The digests of the inventories that a release contains; a new file gets a line in the table by hand."""

from __future__ import annotations

from pathlib import Path

from provision.core.tables import own_table
from provision.phases.stage.wheelhouse import sha256_of

ROOT = Path(__file__).resolve().parents[2]
TARGET = "provision/features/bundle/inventories.toml"
HEAD = "# The inventories of the release by digest. Any other file in inventory/ is the user's own, and no bundle contains it."


def generate() -> str:
    """Return the table with the digests of the files as they are."""
    names = sorted(own_table(ROOT / TARGET)["sha256"])
    return "\n".join([HEAD, "", "[sha256]", *(f'"{name}" = "{sha256_of(ROOT / name)}"' for name in names), ""])
