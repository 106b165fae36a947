"""From a component (`driver-open`, `fabric-manager`) to packages and the signed repository that carries them, for one host's system."""

from __future__ import annotations

from dataclasses import dataclass

from provision.catalog.load import catalog
from provision.catalog.rows.packages import DistributionDriver, PackageSystem
from provision.catalog.versions import is_of, minor, numbers
from provision.core.errors import UsageError

GENERIC = "generic"
"""The flavour of Ubuntu's kernels whose later series (hwe) have meta packages of their own."""


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository as a host is told of it."""

    name: str
    manager: str
    uri: str
    """Empty for the distribution's own sources, which the host has already."""
    suite: str
    components: tuple[str, ...]
    key: str
    """A file of role `vendor_packages`, an address, or an absolute path on the controller."""
    fingerprint: str | None
    rivals: tuple[str, ...]
    origin: str
    priority: int


def package_system(os_id: str | None, version_id: str | None) -> PackageSystem:
    """The row of a distribution's release.

    Raises UsageError when its driver packages are not known.
    """
    for row in catalog().package_systems:
        if row.id == os_id and is_of(version_id or "", row.version_id):
            return row
    known = ", ".join(f"{row.id} {row.version_id}" for row in catalog().package_systems)
    raise UsageError(
        f"no driver packages are known for {os_id or 'an unknown system'} {version_id or ''}".rstrip(),
        hint=f"install the driver as its vendor says, then run the same command again; known are: {known}",
    )


def packages_of_component(name: str, *, branch: str = "", cuda: str = "") -> tuple[str, ...]:
    """The packages of a component; each is one name, or several by `|` of which one is on offer."""
    row = catalog().package_components[name]
    return tuple(package.format(branch=branch, cuda=cuda.replace(".", "-")) for package in row.packages)


def distribution_driver(
    os_id: str | None, version_id: str | None, machine: str | None, *, branch: str | None = None
) -> DistributionDriver | None:
    """The newest driver that a distribution carries itself, of one branch where one is named; None where none is known."""
    found = [
        row
        for row in catalog().distribution_drivers
        if row.id == os_id
        and is_of(version_id or "", row.version_id)
        and machine in {None, *row.machines}
        and branch in {None, row.version.partition(".")[0]}
    ]
    return max(found, key=lambda row: numbers(row.version), default=None)


def packages_of_distribution(names: tuple[str, ...], row: DistributionDriver, kernel: str | None) -> tuple[str, ...]:
    """Packages of a distribution's own driver for the kernel that runs (`uname -r`).

    Raises UsageError where they are named after the kernel and that is not known.
    """
    if kernel is None and any("{kernel}" in name or "{flavour}" in name for name in names):
        raise UsageError(
            f"the packages of {row.id}'s driver are named after the kernel, and which one runs is not known"
        )
    flavour = (kernel or "").rpartition("-")[2]
    later = row.first_kernel is not None and minor(kernel or "") != row.first_kernel
    if flavour == GENERIC and later:
        flavour = f"{GENERIC}-hwe-{row.version_id}"
    branch = row.version.partition(".")[0]
    return tuple(name.format(branch=branch, kernel=kernel, flavour=flavour) for name in names)


def packages_before(name: str, os_id: str | None, version_id: str | None) -> tuple[str, ...]:
    """What has to be there before a component's packages are asked for: it names the repositories of their dependencies."""
    return package_system(os_id, version_id).also if catalog().package_components[name].builds else ()


def repository_of_distribution(row: DistributionDriver) -> Repository:
    """The sources that a host of the distribution has already, with these components opened: no address, no key of ours."""
    return Repository(
        name=row.id,
        manager="apt",
        uri="",
        suite="",
        components=row.components,
        key="",
        fingerprint=None,
        rivals=("NVIDIA",),
        origin=row.origin,
        priority=0,
    )


def repository_of_component(
    name: str, *, os_id: str | None, version_id: str | None, machine: str | None, mirror: str | None, key: str | None
) -> Repository:
    """The repository of a component for one system; `mirror` takes the place of the vendor's base address.

    `key` is a file on the controller with the public key that a mirror is signed with; without it the vendor's own
    signature must hold. Raises UsageError when the vendor has none for this system.
    """
    system = package_system(os_id, version_id)
    wanted = catalog().package_components[name].repository
    row = next(
        (
            row
            for row in catalog().package_repositories
            if row.name == wanted and row.manager == system.manager and (not row.only or system.id in row.only)
        ),
        None,
    )
    spelling = next((entry for entry in catalog().package_machines if entry.machine == machine), None)
    if row is None or spelling is None:
        raise UsageError(
            f"no repository with {name} is known for {os_id} {version_id} on {machine}",
            hint="install it as its vendor says, then run the same command again",
        )
    if row.releases and version_id not in row.releases:
        raise UsageError(
            f"{row.name} has no folder for {os_id} {version_id}, only for {', '.join(row.releases)}",
            hint="bring the host to one of these releases, or install it as its vendor says, then run the same command again",
        )
    values = {
        "folder": system.folder,
        "codename": system.codename,
        "version_id": version_id or system.version_id,
        "machine": spelling.machine,
        "cuda": spelling.cuda,
        "deb": spelling.deb,
    }
    return Repository(
        name=row.name,
        manager=row.manager,
        uri=f"{(mirror or row.base).rstrip('/')}/{row.path}".format(**values),
        suite=row.suite.format(**values),
        components=row.components,
        key=key or row.key.format(**values),
        fingerprint=None if key else row.fingerprint,
        rivals=row.rivals,
        origin=row.origin,
        priority=row.priority,
    )
