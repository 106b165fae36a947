"""Rows about driver packages and the repositories that carry them."""

from typing import Literal

from provision.catalog.rows import Row, SystemRow


class PackageSystem(SystemRow):
    """A distribution with known driver packages."""

    manager: Literal["apt", "dnf"]
    folder: str
    codename: str = ""
    also: tuple[str, ...] = ()
    """Packages that add the repositories of a driver's dependencies."""


class DriverByHand(SystemRow):
    """A distribution with no packages here: the vendor's commands for its driver."""

    commands: tuple[str, ...]


class PackageMachine(Row):
    """A CPU architecture as the vendors spell it in addresses."""

    machine: str
    cuda: str
    deb: str


class PackageRepository(Row):
    """A vendor's signed repository. `path` and `suite` contain the placeholders that the head of packages.toml lists."""

    name: str
    manager: Literal["apt", "dnf"]
    base: str
    path: str
    key: str
    """A file of the role `vendor_packages`, or the address from which the host fetches it."""
    fingerprint: str
    """The fingerprint of the primary key; another key is refused."""
    suite: str = ""
    components: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    """Origins whose packages of the same family must not be mixed with these."""
    only: tuple[str, ...] = ()
    """The distributions that it is for (`debian`), or releases of them (`debian 13`); empty: all."""
    releases: tuple[str, ...] = ()
    """The distribution releases that it has a folder for (`9.6`); empty: all."""
    origin: str = ""
    """The origin in its Release file; `priority` applies to it."""
    priority: int = 0
    """The apt priority of all packages of `origin`; 0: apt's default."""


class PackageComponent(Row):
    """The packages of one component, such as `driver-open`."""

    name: str
    repository: str
    packages: tuple[str, ...]
    modules: tuple[str, ...] = ()
    """Kernel modules that it uses to reach the hardware."""
    instead_of: tuple[str, ...] = ()
    """Globs of the packages that it replaces: the other flavour of the kernel modules."""
    oldest: dict[str, str] | None = None
    """The lowest versions of packages, without epoch and revision: older ones are upgraded."""
    builds: bool = False
    """Whether dkms builds a kernel module on the host."""


class DistributionDriver(SystemRow):
    """A driver in a distribution's own archive: the newest of one branch.

    Package names contain {branch}, {kernel} (`uname -r`) and {flavour} (the meta package that follows the host's kernels).
    """

    version: str
    machines: tuple[str, ...]
    origin: str
    """The origin in the Release files of the archive."""
    components: tuple[str, ...]
    """The parts of the archive that contain the packages."""
    open: tuple[str, ...] = ()
    """Packages with the open kernel module; empty if this version has none."""
    proprietary: tuple[str, ...] = ()
    fabric_manager: tuple[str, ...] = ()
    signed: bool = False
    """Whether the modules are signed with a key that the firmware knows."""
    apart: tuple[str, ...] = ()
    """Packages with names of the family whose version is independent of the driver's."""
    first_kernel: str | None = None
    """The series of the release's first kernel; later series of the same flavour have their own meta packages."""


class PackageFamily(Row):
    """Packages that have the driver's version."""

    name: str
    packages: tuple[str, ...]
    """Globs."""
    version: str
    """A regular expression."""
