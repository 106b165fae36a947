"""Overlays: dated files with the rows that `catalog refresh` reads from the user's index.

An overlay has tables as the product's files do. It adds rows and changes none: a row of the product
is more exact than one from metadata, so a row with the same subject is ignored.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.core.folders import config_folder
from provision.core.tables import TableError, read_table

TABLES = {"release": "vllm", "build": "vllm_builds", "torch": "torch", "proven": "proven"}
"""The tables of an overlay, with the product's file that has the same table."""
REFRESH = "delete it, then run ./firstlight catalog refresh"


@dataclass(frozen=True)
class Overlay:
    """One file: its rows by table, as TOML values."""

    path: Path
    tables: dict[str, list[dict[str, Any]]]


def folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the user's overlays: FIRSTLIGHT_CATALOG, else a folder of the user's configuration."""
    environ = os.environ if environ is None else environ
    if named := environ.get("FIRSTLIGHT_CATALOG"):
        return Path(named).expanduser()
    return config_folder(environ) / "catalog"


def read_all(place: Path) -> tuple[Overlay, ...]:
    """Return every overlay of a folder, oldest first; none if the folder does not exist.

    Raises:
        TableError: `place` is a file, or an overlay is malformed.
    """
    if place.exists() and not place.is_dir():
        raise TableError(
            f"the folder of catalog overlays `{place}` is a file",
            hint="FIRSTLIGHT_CATALOG names the folder of your overlays; the default is ~/.config/firstlight/catalog",
        )
    return tuple(read(path) for path in sorted(place.glob("*.toml")))


def read(path: Path) -> Overlay:
    """Return one overlay.

    Raises:
        TableError: The file is unreadable or empty, or it has a table that overlays cannot have.
    """
    tables = read_table(path, hint=REFRESH)
    if not any(tables.values()):
        raise TableError(f"catalog overlay `{path}` has no row", hint=REFRESH)
    for name, found in tables.items():
        if name not in TABLES:
            raise TableError(
                f"catalog overlay `{path}`: unknown table `{name}`", hint=f"an overlay has {', '.join(TABLES)}"
            )
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise TableError(f"catalog overlay `{path}`: `{name}` is not a list of rows", hint=REFRESH)
    return Overlay(path, tables)
