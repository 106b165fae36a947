"""What roles for drivers and the container toolkit install where no plan tells them, from the catalog."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from provision.catalog import catalog
from provision.catalog.packages import package_system, repository_of_component
from provision.catalog.rows.hardware import PackageSystem
from provision.core.errors import UsageError
from provision.phases.install.drivers import CONTAINER_TOOLKIT, FAMILY
from provision.phases.plan import rocm

TARGET = "playbooks/roles/vendor_packages/files/components.json"
COMPONENTS = (
    "driver-open",
    "driver-proprietary",
    "fabric-manager",
    "subnet-manager",
    "cuda-toolkit",
    CONTAINER_TOOLKIT,
    rocm.DRIVER,
    rocm.USERSPACE,
)


def generate() -> str:
    """Return the table: the offered driver, the family of its packages, components, and what each system has, a line each."""
    family = catalog().package_families[FAMILY]
    systems = [
        f"  {json.dumps(f'{system.id} {release} {row.machine}')}: {json.dumps(_of_system(system.id, release, row.machine))}"
        for system in catalog().package_systems
        for release in (system.version_id, *_releases(system))
        for row in catalog().package_machines
    ]
    components = [f"  {json.dumps(name)}: {json.dumps(_component(name))}" for name in COMPONENTS]
    lines = [
        "{",
        f' "driver": {json.dumps(catalog().driver_offer.version)},',
        f' "family": {json.dumps({"packages": family.packages, "version": family.version})},',
        ' "components": {',
        ",\n".join(components),
        " },",
        ' "systems": {',
        ",\n".join(systems),
        " }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _releases(system: PackageSystem) -> list[str]:
    """Return the minor releases of a system that a repository has folders for."""
    return sorted(
        {
            release
            for row in catalog().package_repositories
            if row.manager == system.manager and f"{system.id} {system.version_id}" in row.only
            for release in row.releases
        }
    )


def _component(name: str) -> dict[str, Any]:
    row = catalog().package_components[name]
    base = next(found.base for found in catalog().package_repositories if found.name == row.repository)
    return {
        "repository": row.repository,
        "base": base,
        "packages": row.packages,
        "modules": row.modules,
        "instead_of": row.instead_of,
        "oldest": row.oldest,
        "builds": row.builds,
    }


def _of_system(os_id: str, version_id: str, machine: str) -> dict[str, Any]:
    """Return the repositories that a system has, by name, and the packages that come `before` those which build modules."""
    found: dict[str, Any] = {"before": package_system(os_id, version_id).also}
    for name in COMPONENTS:
        try:
            repository = repository_of_component(
                name, os_id=os_id, version_id=version_id, machine=machine, mirror=None, key=None
            )
        except UsageError:
            continue
        found[repository.name] = asdict(repository)
    return found
