"""Inventories of real hosts, as the product reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from provision.core.models.inventory import Host
from provision.fleet.inventory import load


def hosts_of(path: Path, **overrides: Any) -> list[Host]:
    return list(load(path, overrides=overrides).hosts)


def inventory_of(folder: Path, entries: dict[str, dict[str, Any]]) -> Path:
    """An inventory of hosts by name, each with its variables."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "hosts.yml"
    path.write_text(json.dumps({"all": {"hosts": entries}}))
    return path
