"""The tables of the product with the user's overlays: each file is read when it is first used, once a process."""

from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from provision.catalog import overlay
from provision.catalog.overlay import Overlay
from provision.catalog.rows import Row
from provision.catalog.rows import advisories as advisories_rows
from provision.catalog.rows import attention as attention_rows
from provision.catalog.rows import builds as builds_rows
from provision.catalog.rows import hardware as hardware_rows
from provision.catalog.rows import packages as packages_rows
from provision.catalog.rows import system as system_rows
from provision.core.tables import build_row, rows_of

FOLDER = Path(__file__).parent

R = TypeVar("R", bound=Row)


def _rows(file: str, table: str, kind: type[R]) -> cached_property[tuple[R, ...]]:
    return cached_property(lambda found: found.read_rows(file, table, kind))


def _row(file: str, table: str, kind: type[R]) -> cached_property[R]:
    return cached_property(lambda found: found.read_rows(file, table, kind)[0])


def _rows_by(key: str, file: str, table: str, kind: type[R]) -> cached_property[dict[str, R]]:
    return cached_property(lambda found: {getattr(row, key): row for row in found.read_rows(file, table, kind)})


class Catalog:
    """All tables of a folder, and the rows that overlays add."""

    def __init__(self, folder: Path = FOLDER, overlays: Sequence[Overlay] = ()) -> None:
        self.folder = folder
        self.overlays = tuple(overlays)

    releases = _rows("vllm", "release", builds_rows.Release)
    builds = _rows("vllm_builds", "build", builds_rows.Build)
    nightlies = _rows("vllm_builds", "nightly", builds_rows.Nightly)
    proven = _rows("proven", "proven", builds_rows.Proven)
    torch_stand_ins = _rows("vllm_builds", "torch_stand_in", builds_rows.TorchStandIn)
    broken_releases = _rows("vllm", "broken", builds_rows.BrokenReleases)
    slices_by_uuid = _row("vllm", "slices_by_uuid", builds_rows.SlicesByUuid)
    horizon = _row("bounds", "horizon", builds_rows.Horizon)
    bounds = _rows("bounds", "bound", builds_rows.Bound)
    timelines = _rows("bounds", "timeline", builds_rows.Timeline)
    torches = _rows("torch", "torch", builds_rows.Torch)
    torch_archs = _rows("torch", "arch", builds_rows.TorchArch)
    rocm_archs = _rows("torch", "rocm_arch", builds_rows.RocmArch)
    cuda_majors = _rows("cuda", "major", hardware_rows.CudaMajor)
    toolkits = _rows("cuda", "toolkit", hardware_rows.Toolkit)
    branches = _rows("cuda", "branch", hardware_rows.Branch)
    driver_faults = _rows("cuda", "driver_fault", hardware_rows.DriverFault)
    host_compilers = _rows("cuda", "host_compiler", hardware_rows.HostCompiler)
    driver_offer = _row("cuda", "offer", hardware_rows.DriverOffer)
    advisories = _rows("advisories", "advisory", advisories_rows.Advisory)
    nvidia_cards = _rows("gpus", "nvidia", hardware_rows.NvidiaCard)
    servers = _rows("servers", "server", hardware_rows.ServerProduct)
    pci_ranges = _rows("gpus", "pci_range", hardware_rows.PciRange)
    architectures = _rows("gpus", "architecture", hardware_rows.Architecture)
    amd_cards = _rows("gpus", "amd", hardware_rows.AmdCard)
    integrated_graphics = _rows("gpus", "integrated", hardware_rows.IntegratedGraphics)
    spellings = _rows("attention", "spelling", attention_rows.Spelling)
    platform_backends = _rows("attention", "platform", attention_rows.PlatformBackend)
    generations = _rows("attention", "generation", attention_rows.Generation)
    flash_compilers = _rows("attention", "flash_compiler", attention_rows.FlashCompiler)
    flash_wheels = _rows("flash_attn", "wheel", attention_rows.OwnWheels)
    community_wheels = _rows("flash_attn", "community", attention_rows.CommunityWheels)
    flash_sources = _rows("flash_attn", "sdist", attention_rows.FlashSource)
    flash_4 = _rows("flash_attn", "generation_4", attention_rows.FlashAttn4)
    flashinfer_kernels = _rows("attention", "flashinfer_kernels", attention_rows.FlashInfer)
    access_groups = _rows("rocm", "access_group", hardware_rows.AccessGroup)
    userspaces = _rows("rocm", "userspace", hardware_rows.Userspace)
    levels = _rows("cpu", "level", hardware_rows.Level)
    needs = _rows_by("family", "needs", "need", system_rows.Need)
    python_need = _row("needs", "python", system_rows.PythonNeed)
    system_needs = _rows("system", "need", system_rows.SystemNeed)
    install_commands = _rows_by("manager", "system", "command", system_rows.InstallCommand)
    distributions = _rows("system", "distribution", system_rows.Distribution)
    linux_releases = _rows("system", "linux_release", system_rows.LinuxRelease)
    python_packages = _rows("system", "python_package", system_rows.PythonPackage)
    managed_pythons = _rows("system", "managed_python", system_rows.ManagedPython)
    platform_tag = _row("system", "platform_tag", system_rows.PlatformTag)
    package_systems = _rows("packages", "system", packages_rows.PackageSystem)
    drivers_by_hand = _rows("packages", "by_hand", packages_rows.DriverByHand)
    package_machines = _rows("packages", "machine", packages_rows.PackageMachine)
    package_repositories = _rows("packages", "repository", packages_rows.PackageRepository)
    package_components = _rows_by("name", "packages", "component", packages_rows.PackageComponent)
    distribution_drivers = _rows("packages", "distribution_driver", packages_rows.DistributionDriver)
    package_families = _rows_by("name", "packages", "family", packages_rows.PackageFamily)

    @property
    def flash_backends(self) -> frozenset[str]:
        """Return the attention back ends that compute flash attention wherever they run, of any release."""
        others = {row.backend for row in self.platform_backends if not row.flash}
        return frozenset(row.backend for row in self.platform_backends if row.flash) - others

    def tables(self) -> dict[str, Any]:
        """Return every table by name, for checks of all rows."""
        return {
            name: getattr(self, name) for name, value in vars(type(self)).items() if isinstance(value, cached_property)
        }

    def read_rows(self, file: str, table: str, kind: type[R]) -> tuple[R, ...]:
        """Return the rows of one table, those of overlays last.

        Raises:
            TableError: The file or a row is malformed.
        """
        own = rows_of(self.folder / f"{file}.toml", table, kind)
        return (*own, *self._added(table, kind, {_subject(row) for row in own})) if self.overlays else own

    def _added(self, table: str, kind: type[R], known: set[tuple[Any, ...]]) -> Iterator[R]:
        for extra in self.overlays:
            for number, values in enumerate(extra.tables.get(table, ()), 1):
                row = build_row(kind, values, where=f"{extra.path}, {table} {number}", hint=overlay.REFRESH)
                if _subject(row) not in known:
                    known.add(_subject(row))
                    yield row


def _subject(row: Row) -> tuple[Any, ...]:
    """Return the fields that identify a row of the tables that overlays may extend."""
    return tuple(getattr(row, name, None) for name in ("version", "variant", "provider", "set", "machine"))


@cache
def catalog() -> Catalog:
    """Return the product's tables with the user's overlays; the process shares them.

    Raises:
        TableError: An overlay is malformed.
    """
    return Catalog(overlays=overlay.read_all(overlay.folder()))
