"""The rows of the tables. A field without default must stand in the TOML; every row names its source.

Codes of GPU kernels: "80" is native code for compute capability 8.0, "p80" is PTX, which a driver compiles for 8.0 and newer.
`inferred` marks a row with a value that was inferred, not read from the artifact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False)
def table_row(kind: type[T]) -> type[T]:
    """A frozen row. Rows are compared as the things they are, not field by field: that keeps them cheap to make and to look up."""
    return dataclass(frozen=True, kw_only=True, eq=False, repr=False)(kind)


@table_row
class Row:
    source: str
    inferred: bool = False


@table_row
class Release(Row):
    """A vLLM release and its wheel on the default package index."""

    version: str
    date: str | None = None
    """The day its first file was uploaded (2025-06-10)."""
    python: str
    torch: str
    cuda: str
    glibc: str
    machines: tuple[str, ...]
    core: tuple[str, ...]
    fa2: tuple[str, ...] = ()
    fa3: tuple[str, ...] = ()
    fa4: bool = False
    flash_commit: str | None = None
    python_locked: tuple[str, ...] = ()
    torchvision: str | None = None
    torchaudio: str | None = None
    flashinfer: str | None = None
    flashinfer_cubin: bool = False


@table_row
class Build(Row):
    """A vLLM build from elsewhere than the default wheel, or under another name."""

    version: str
    variant: str
    provider: Literal["official", "community"]
    distribution: str
    glibc: str
    machines: tuple[str, ...]
    index: str | None = None
    isa: tuple[str, ...] = ()
    python_only: str | None = None
    torch: str | None = None
    """The torch that it was built with, where that is not the release's own pin."""
    gfx: tuple[str, ...] = ()


@table_row
class TorchStandIn(Row):
    """A CUDA build of torch on the default index that a CPU build of vLLM was proven to compute with, where torch's CPU build cannot be had."""

    version: str
    provider: Literal["official", "community"]
    machine: str
    torch: str
    variant: str


@table_row
class ImportFailure(Row):
    """A vLLM release that does not import on a host as it is installed, and the release that cures it."""

    version: str
    why: str
    cured: str


@table_row
class Horizon(Row):
    """How long after a release's own day its dependencies may have been uploaded, and how old a release is that keeps up with them."""

    margin_days: int
    current_days: int
    """Behind the newest release of the catalog."""


@table_row
class Bound(Row):
    """A range of a dependency that holds whatever the day, for vLLM releases since and until, both included."""

    distribution: str
    specifier: str
    why: str
    since: str | None = None
    until: str | None = None


@table_row
class Timeline(Row):
    """When minor releases of a dependency were uploaded, at most one a month: `2025-07-25 4.54`, the oldest first."""

    distribution: str
    releases: tuple[str, ...]


@table_row
class Torch(Row):
    """A torch release with its variants."""

    version: str
    python: str
    pythons: tuple[str, ...]
    glibc: str
    default_x86_64: str
    default_aarch64: str
    cuda: tuple[str, ...]
    cuda_aarch64: tuple[str, ...]
    rocm: tuple[str, ...]
    cxx11_abi: bool


@table_row
class TorchArch(Row):
    """GPU code in a CUDA variant of torch, for a range of releases."""

    variant: str
    since: str
    until: str
    codes: tuple[str, ...]


@table_row
class RocmArch(Row):
    """AMD architectures in a ROCm variant of torch."""

    variant: str
    gfx: tuple[str, ...]


@table_row
class CudaMajor(Row):
    """Lowest driver that runs native code of a CUDA major."""

    major: int
    driver: str


@table_row
class Toolkit(Row):
    """Lowest driver that runs all of a toolkit's output, PTX included."""

    version: str
    driver: str


@table_row
class Branch(Row):
    """A driver branch. `kind` is lts, production or new-feature; `end_of_life` a month (2026-06), or `ended` when its day was not published."""

    branch: int
    cuda: str
    kind: str | None = None
    end_of_life: str | None = None
    newest: str | None = None


@table_row
class DriverFault(Row):
    """How a driver that is loaded and does not answer is told: `says` is a regular expression on what nvidia-smi said instead."""

    name: str
    says: str
    text: str
    remedy: str


@table_row
class DriverOffer(Row):
    """The driver that is installed when one is needed; `as_of` is the month in which the branches were read."""

    version: str
    as_of: str


@table_row
class HostCompiler(Row):
    """The newest gcc that a toolkit's nvcc compiles with."""

    cuda: str
    gcc: int


@table_row
class NvidiaCard(Row):
    name: str
    ids: tuple[str, ...]
    compute_capability: str
    memory_gib: int
    kind: Literal["data-centre", "workstation", "geforce"]
    switched_board: int | None = None
    """Number of cards on the board that has NVSwitches."""
    subnet_manager: bool = False
    """Those NVSwitches are run by nvlsm beside the fabric manager, and show on the bus as network cards."""
    module: Literal["open"] | None = None
    """Set where the card needs that module although its architecture does not."""
    machine: Literal["aarch64"] | None = None
    """Set where the card shares its board with a processor of that architecture (Grace)."""


@table_row
class Architecture(Row):
    compute_capability: str
    name: str
    module: Literal["open", "proprietary"]
    module_only: bool = False
    last_branch: int | None = None
    first_driver: str | None = None


@table_row
class AmdCard(Row):
    name: str
    ids: tuple[str, ...]
    gfx: str


@table_row
class IntegratedGraphics(Row):
    """AMD architectures that are a processor's own graphics."""

    gfx: tuple[str, ...]


@table_row
class Userspace(Row):
    """The ROCm that must be on the host for a variant."""

    variant: str
    minimum: str
    below: str


@table_row
class AccessGroup(Row):
    """A group of the system whose members may open AMD cards."""

    name: str


@table_row
class Level(Row):
    """A CPU level."""

    name: str
    machine: str
    rank: int


@table_row
class Need(Row):
    """Space and memory that a family of builds needs, GiB."""

    family: Literal["cpu", "cuda", "rocm"]
    installed: float
    wheels: float
    memory: float
    model: float


@table_row
class PythonNeed(Row):
    """Space of a managed interpreter, GiB."""

    installed: float
    archive: float


@table_row
class SystemNeed(Row):
    """Something the host's own distribution must provide."""

    name: str
    for_build: tuple[str, ...]
    why: str
    apt: str
    dnf: str
    zypper: str
    library: str | None = None
    programs: tuple[str, ...] = ()


@table_row
class InstallCommand(Row):
    manager: str
    install: str


@table_row
class LinuxRelease(Row):
    """What a release of a distribution comes with. `python` is its python3; null where the installation has none."""

    id: str
    version_id: str
    libc: Literal["glibc", "musl"]
    libc_version: str
    python: str | None = None


@table_row
class PythonPackage(Row):
    """The headers' package of a distribution's own default interpreter."""

    id: str
    version_id: str
    python: str
    headers: str


@table_row
class ManagedPython(Row):
    version: str


@table_row
class PlatformTag(Row):
    """glibc versions that uv has a platform name for, ascending."""

    glibc: tuple[str, ...]


@table_row
class PackageSystem(Row):
    """A distribution whose driver packages are known; `version_id` is the release, or only its first part."""

    id: str
    version_id: str
    manager: Literal["apt", "dnf"]
    folder: str
    codename: str = ""
    also: tuple[str, ...] = ()
    """Packages that name further repositories, which a driver's dependencies come from."""


@table_row
class PackageMachine(Row):
    """How vendors' addresses spell a CPU architecture."""

    machine: str
    cuda: str
    deb: str


@table_row
class PackageRepository(Row):
    """A vendor's signed repository. `path` and `suite` hold the placeholders of packages.toml's head."""

    name: str
    manager: Literal["apt", "dnf"]
    base: str
    path: str
    key: str
    """A file of role `vendor_packages`, or the address where the host fetches it."""
    fingerprint: str
    """Of the primary key; a key that differs is refused."""
    suite: str = ""
    components: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    """Origins whose packages of the same family must not be mixed in."""
    only: tuple[str, ...] = ()
    """The distributions that it is for; empty: all."""
    releases: tuple[str, ...] = ()
    """The distributions' releases that it has a folder for (`9.6`); empty: all."""
    origin: str = ""
    """What its Release file names itself; with `priority`, apt takes its packages before the distribution's of the same name."""
    priority: int = 0
    """apt's, of everything from `origin`; 0: the default."""


@table_row
class PackageComponent(Row):
    name: str
    repository: str
    packages: tuple[str, ...]
    modules: tuple[str, ...] = ()
    """Kernel modules that it talks to the hardware through."""
    instead_of: tuple[str, ...] = ()
    """Globs of packages that go when these come: the other flavour of the kernel modules."""
    builds: bool = False
    """Whether a kernel module is built on the host, with dkms."""


@table_row
class DistributionDriver(Row):
    """A driver that a distribution carries itself: the newest of one branch.

    Packages hold {branch}, {kernel} (`uname -r`) and {flavour} (the meta package that follows the host's kernels).
    """

    id: str
    version_id: str
    version: str
    machines: tuple[str, ...]
    origin: str
    """What the Release files of the distribution's archive name themselves."""
    components: tuple[str, ...]
    """Parts of the archive that hold the packages."""
    open: tuple[str, ...]
    proprietary: tuple[str, ...]
    fabric_manager: tuple[str, ...] = ()
    signed: bool = False
    """Whether the modules are signed with a key that the firmware knows."""
    apart: tuple[str, ...] = ()
    """Packages of the family's names that the distribution versions apart from the driver: they go their own way."""
    first_kernel: str | None = None
    """Series of the kernel that the release came with; later ones of the same flavour have meta packages of their own."""


@table_row
class PackageFamily(Row):
    """Packages whose version is the driver's: `packages` are globs, `version` a regular expression."""

    name: str
    packages: tuple[str, ...]
    version: str
