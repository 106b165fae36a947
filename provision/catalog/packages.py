"""The packages of a component (`driver-open`, `fabric-manager`) and its signed repository, for one host's system; the distribution's names of system packages."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from provision.catalog.load import catalog
from provision.catalog.rows.hardware import DistributionDriver, PackageSystem
from provision.catalog.versions import minor, numbers
from provision.core.errors import UsageError

GENERIC = "generic"
"""The flavour of Ubuntu's kernels whose later series (hwe) have separate meta packages."""


@dataclass(frozen=True)
class Repository:
    """A repository as a host configures it."""

    name: str
    manager: str
    components: tuple[str, ...]
    rivals: tuple[str, ...]
    origin: str
    uri: str = ""
    """Empty for the distribution's sources, which the host already has."""
    suite: str = ""
    key: str = ""
    """A file of the role `vendor_packages`, an address, or an absolute path on the controller."""
    fingerprint: str | None = None
    priority: int = 0


def find_package_system(os_id: str | None, version_id: str | None) -> PackageSystem | None:
    return next((row for row in catalog().package_systems if row.covers(os_id, version_id)), None)


def package_system(os_id: str | None, version_id: str | None) -> PackageSystem:
    """Return the row of a distribution's release.

    Raises:
        UsageError: The catalog has no driver packages for it.
    """
    if row := find_package_system(os_id, version_id):
        return row
    known = ", ".join(f"{row.id} {row.version_id}" for row in catalog().package_systems)
    by_hand = next((row for row in catalog().drivers_by_hand if row.covers(os_id, version_id)), None)
    how = f"with `{' && '.join(by_hand.commands)}` ({by_hand.source})" if by_hand else "as its vendor describes"
    raise UsageError(
        f"the catalog has no driver packages for {os_id} {version_id or ''}".rstrip(),
        hint=f"install the driver {how}, then run the same command again; the catalog has: {known}",
    )


def packages_of_component(name: str, *, branch: str = "", cuda: str = "") -> tuple[str, ...]:
    """Return the packages of a component; an entry `a|b` means the first name that the repository has."""
    row = catalog().package_components[name]
    return tuple(package.format(branch=branch, cuda=cuda.replace(".", "-")) for package in row.packages)


def distribution_driver(
    os_id: str | None,
    version_id: str | None,
    machine: str | None,
    *,
    branch: str | None = None,
    module: Literal["open", "proprietary"] | None = None,
) -> DistributionDriver | None:
    """Return the newest driver of a distribution, within `branch` and with `module` if given; None if the catalog has none."""
    found = [
        row
        for row in catalog().distribution_drivers
        if row.covers(os_id, version_id)
        and machine in {None, *row.machines}
        and branch in {None, row.version.partition(".")[0]}
        and (module is None or getattr(row, module))
    ]
    return max(found, key=lambda row: numbers(row.version), default=None)


def packages_of_distribution(names: tuple[str, ...], row: DistributionDriver, kernel: str | None) -> tuple[str, ...]:
    """Return the packages of a distribution's driver for the running kernel (`uname -r`)."""
    flavour = (kernel or "").split("-", 2)[-1]
    later = row.first_kernel is not None and minor(kernel or "") != row.first_kernel
    if flavour == GENERIC and later:
        flavour = f"{GENERIC}-hwe-{row.version_id}"
    branch = row.version.partition(".")[0]
    return tuple(name.format(branch=branch, kernel=kernel, flavour=flavour) for name in names)


def repository_of_component(
    name: str, *, os_id: str | None, version_id: str | None, machine: str | None, mirror: str | None, key: str | None
) -> Repository:
    """Return the repository of a component for one system.

    Args:
        name: The component.
        os_id: The distribution (ID of os-release).
        version_id: Its release (VERSION_ID of os-release).
        machine: The processor architecture; None: x86_64, which the plan assumes of a described host.
        mirror: An address that replaces the vendor's.
        key: A file on the controller with the mirror's public key; None: the vendor's key, from the mirror where it is not among our files.

    Raises:
        UsageError: The vendor has no repository for this system.
    """
    system, machine = package_system(os_id, version_id), machine or "x86_64"
    wanted = catalog().package_components[name].repository
    rows = (row for row in catalog().package_repositories if (row.name, row.manager) == (wanted, system.manager))
    is_for = {system.id, f"{system.id} {system.version_id}"}
    row = next((row for row in rows if not row.only or is_for & set(row.only)), None)
    spelling = next((entry for entry in catalog().package_machines if entry.machine == machine), None)
    if row is None or spelling is None:
        raise UsageError(
            f"the catalog has no repository with {name} for {os_id} {version_id} on {machine}",
            hint="install it as its vendor describes, then run the same command again",
        )
    if row.releases and version_id not in row.releases:
        raise UsageError(
            f"{row.name} has no folder for {os_id} {version_id}, only for {', '.join(row.releases)}",
            hint="upgrade the host to one of these releases, or install it as its vendor describes; then run the same command again",
        )
    values = asdict(system) | asdict(spelling) | {"version_id": version_id or system.version_id}
    base = (mirror or row.base).rstrip("/")
    return Repository(
        name=row.name,
        manager=row.manager,
        uri=f"{base}/{row.path}".format(**values),
        suite=row.suite.format(**values),
        components=row.components,
        # A copy has the vendor's key where the vendor has it; the fingerprint decides whether it is trusted.
        key=key or row.key.replace(row.base, base).format(**values),
        fingerprint=None if key else row.fingerprint,
        rivals=row.rivals,
        origin=row.origin,
        priority=row.priority,
    )


def os_packages(
    names: Iterable[str], *, manager: str, python: str, os_id: str | None = None, os_version: str | None = None
) -> tuple[str, ...]:
    """Return a distribution's packages for neutral names, in the given order.

    Args:
        names: Neutral names.
        manager: apt, dnf or zypper.
        python: The version of the Stack's interpreter on the host.
        os_id: The distribution (ID of os-release).
        os_version: Its release (VERSION_ID of os-release).

    Raises:
        UsageError: The table has no names for the package manager.
    """
    if manager not in catalog().install_commands:
        raise UsageError(
            f"the catalog has no package names for `{manager}`",
            hint=f"it has names for: {', '.join(catalog().install_commands)}",
        )
    needs = {need.name: need for need in catalog().system_needs}
    found = []
    for name in names:
        package: str = getattr(needs[name], manager).format(python=minor(python))
        if name == "python-headers":
            named = (row for row in catalog().python_packages if row.python == minor(python))
            package = next((row.headers for row in named if row.covers(os_id, os_version)), package)
        found.append(package)
    return tuple(found)
