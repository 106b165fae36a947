"""Rows about hosts: cards, processors, drivers, CUDA and ROCm; space, memory and packages of the distribution; driver packages and their repositories."""

from typing import Literal

from provision.catalog.rows import Row, SystemRow


class CudaMajor(Row):
    """The lowest driver that runs native code of a CUDA major."""

    major: int
    driver: str


class Toolkit(Row):
    """The lowest driver that runs all output of a CUDA toolkit, PTX included."""

    version: str
    driver: str


class Branch(Row):
    """A driver branch."""

    branch: int
    cuda: str | None = None
    kind: str | None = None
    """`lts`, `production` or `new-feature`."""
    end_of_life: str | None = None
    """A month (2026-06), or `ended` if the day was not published."""
    newest: str | None = None


class DriverFault(Row):
    """A fault of a driver that is loaded and does not answer."""

    name: str
    pattern: str
    """A regular expression for the output of nvidia-smi."""
    text: str
    remedy: str


class DriverOffer(Row):
    """The driver that is installed if the settings name none."""

    version: str
    as_of: str
    """The month in which the branches were read."""


class HostCompiler(Row):
    """The newest gcc that a toolkit's nvcc accepts."""

    cuda: str
    gcc: int


class NvidiaCard(Row):
    name: str
    ids: tuple[str, ...]
    compute_capability: str
    memory_gib: int
    smaller: dict[str, int] | None = None
    """The memory of PCI ids whose cards have less."""
    kind: Literal["data-centre", "workstation", "geforce"]
    mig: bool = False
    """Whether it can be split into slices (MIG)."""
    switched_board: int | None = None
    """The number of cards on its board with NVSwitches."""
    subnet_manager: bool = False
    """Whether nvlsm runs these NVSwitches together with the fabric manager; they are network cards on the bus."""
    module: Literal["open"] | None = None
    """Set if the card needs the open module although its architecture does not."""
    machine: Literal["aarch64"] | None = None
    """Set if the card shares its board with a processor of that architecture (Grace)."""
    machines: tuple[str, ...] = ()
    """Machines with one such card, whose names `--what-if` takes as well."""


class ServerProduct(Row):
    """A server by its product name."""

    name: str
    match: str
    """A regular expression for the whole name that the firmware reports."""
    gpus: int
    cards: tuple[str, ...]
    """Names of its cards in the catalog; one kind in each server."""
    nics: int | None = None
    """Network cards behind one PCIe switch with a GPU, where the product always has them."""
    virtual: bool = False
    """Whether it is a type of virtual machine; in others some GPUs of a server may be missing."""


class PciRange(Row):
    """PCI device ids of one generation of NVIDIA cards, both ends included."""

    first: str
    last: str
    compute_capability: str


class Architecture(Row):
    """A generation of NVIDIA cards."""

    compute_capability: str
    name: str
    module: Literal["open", "proprietary"]
    module_only: bool = False
    last_branch: int | None = None
    first_driver: str | None = None


class AmdCard(Row):
    name: str
    ids: tuple[str, ...]
    gfx: str
    memory_gib: int | None = None


class IntegratedGraphics(Row):
    """AMD architectures of integrated graphics."""

    gfx: tuple[str, ...]


class Userspace(Row):
    """The ROCm that a variant needs on the host."""

    variant: str
    minimum: str
    below: str


class AccessGroup(Row):
    """A system group whose members may open AMD cards."""

    name: str


class Level(Row):
    """A level of a processor's instruction set."""

    name: str
    machine: str
    rank: int


class Need(Row):
    """Space and memory that a family of builds needs, in GiB."""

    family: Literal["cpu", "cuda", "rocm"]
    installed: float
    wheels: float
    memory: float
    model: float


class PythonNeed(Row):
    """Space of a managed interpreter, in GiB."""

    installed: float
    archive: float


class SystemNeed(Row):
    """A library or program that the distribution must provide."""

    name: str
    for_build: tuple[str, ...]
    why: str
    apt: str
    dnf: str
    zypper: str
    library: str | None = None
    programs: tuple[str, ...] = ()
    runtime: str | None = None
    """The runtime of the service that alone needs it; None where each does."""
    oldest: str | None = None
    """The first version that has what is used."""


class InstallCommand(Row):
    manager: str
    install: str


class Distribution(Row):
    id: str
    manager: str | None = None


class LinuxRelease(SystemRow):
    """What a release of a distribution contains."""

    libc: Literal["glibc", "musl"]
    libc_version: str
    python: str | None = None
    """The version of its python3; absent if the installation has none."""


class PythonPackage(SystemRow):
    """The package with the headers of a distribution's default interpreter."""

    python: str
    headers: str


class ManagedPython(Row):
    version: str


class PlatformTag(Row):
    """The glibc versions for which uv has a platform name, ascending."""

    glibc: tuple[str, ...]


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
