"""Inventories of real hosts, as the product reads them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provision.core.models.inventory import Host
from provision.fleet.inventory import load
from tests.fleet.hosts import FleetHost


def hosts_of(path: Path, **overrides: Any) -> list[Host]:
    return list(load(path, overrides=overrides).hosts)


def inventory_of(folder: Path, entries: dict[str, dict[str, Any]]) -> Path:
    """An inventory of hosts by name, each with its variables."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "hosts.yml"
    path.write_text(json.dumps({"all": {"hosts": entries}}))
    return path


def inventory_of_groups(
    folder: Path, groups: Mapping[str, tuple[Sequence[FleetHost], dict[str, Any]]], **variables: Any
) -> Path:
    """An inventory of groups, each with its hosts and its variables; the other variables are those of all hosts."""
    folder.mkdir(parents=True, exist_ok=True)
    children = {
        name: {"hosts": {host.name: host.inventory_entry() for host in hosts}, "vars": of_group}
        for name, (hosts, of_group) in groups.items()
    }
    path = folder / "hosts.yml"
    path.write_text(json.dumps({"all": {"children": children, "vars": variables}}))
    return path
