"""Rows that a refresh read from the user's own index: dated files beside the product's tables, which they add to and never change.

An overlay holds tables as the product's own files do (`release`, `build`, `torch`). A row whose subject the product's tables know by now is
left out: what came with the product was looked into more closely than metadata goes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.core.tables import TableError, read_table

TABLES = {"release": "vllm", "build": "vllm_builds", "torch": "torch"}
"""What an overlay may hold, and the product's file that has the same table."""
REFRESH = "delete it, and have it made anew by ./firstlight catalog refresh"


@dataclass(frozen=True)
class Overlay:
    """One file: its tables by name, each a list of rows as TOML has them."""

    path: Path
    tables: dict[str, list[dict[str, Any]]]


def folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where a user's overlays lie: FIRSTLIGHT_CATALOG, else a folder of the user's configuration."""
    environ = os.environ if environ is None else environ
    if named := environ.get("FIRSTLIGHT_CATALOG"):
        return Path(named).expanduser()
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".config")
    return Path(home) / "firstlight" / "catalog"


def read_all(place: Path) -> tuple[Overlay, ...]:
    """Every overlay of a folder, oldest first; none where there is no folder. Raises TableError when it is a file, and as `read` does."""
    if place.exists() and not place.is_dir():
        raise TableError(
            f"catalog overlays are looked for in `{place}`, which is a file",
            hint="FIRSTLIGHT_CATALOG names the folder that your overlays lie in; without it that is ~/.config/firstlight/catalog",
        )
    return tuple(read(path) for path in sorted(place.glob("*.toml")))


def read(path: Path) -> Overlay:
    """One overlay. Raises TableError, with the file, when it is half-written, empty, or holds what no table of ours has."""
    tables = read_table(path, hint=REFRESH)
    if not any(tables.values()):
        raise TableError(f"catalog overlay `{path}` holds no row", hint=REFRESH)
    for name, found in tables.items():
        if name not in TABLES:
            raise TableError(
                f"catalog overlay `{path}`: no table is called `{name}`", hint=f"an overlay holds {', '.join(TABLES)}"
            )
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise TableError(f"catalog overlay `{path}`: `{name}` is no list of rows", hint=REFRESH)
    return Overlay(path, tables)
