"""The tables of the product with the user's overlays: each file is read when it is first used, once a process."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from provision.catalog.rows import Row
from provision.catalog.rows import builds as build_rows
from provision.catalog.rows import hardware as host_rows
from provision.core.folders import config_folder
from provision.core.tables import TableError, build_row, read_table, rows_of

FOLDER = Path(__file__).parent

R = TypeVar("R", bound=Row)


_Table = Annotated[str, Field(pattern="^(release|build|torch|proven)$")]
_OVERLAY = TypeAdapter(dict[_Table, list[dict[str, Any]]])
"""The tables of an overlay."""
REFRESH = "delete it, then run ./firstlight catalog refresh"


@dataclass(frozen=True)
class Overlay:
    """One file: its rows by table, as TOML values."""

    path: Path
    tables: dict[str, list[dict[str, Any]]]


def overlay_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the user's overlays: FIRSTLIGHT_CATALOG, else a folder of the user's configuration."""
    environ = os.environ if environ is None else environ
    if named := environ.get("FIRSTLIGHT_CATALOG"):
        return Path(named).expanduser()
    return config_folder(environ) / "catalog"


def read_overlays(place: Path) -> tuple[Overlay, ...]:
    """Return every overlay of a folder, oldest first; none if the folder does not exist.

    Raises:
        TableError: `place` is a file, or an overlay is malformed.
    """
    if place.exists() and not place.is_dir():
        raise TableError(
            f"the folder of catalog overlays `{place}` is a file",
            hint="FIRSTLIGHT_CATALOG names the folder of your overlays; the default is ~/.config/firstlight/catalog",
        )
    return tuple(map(_overlay, sorted(place.glob("*.toml"))))


def _overlay(path: Path) -> Overlay:
    tables = read_table(path, hint=REFRESH)
    try:
        return Overlay(path, _OVERLAY.validate_python(tables))
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(map(str, first["loc"]))
        raise TableError(f"catalog overlay `{path}`: {where}: {first['msg']}", hint=REFRESH) from None


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

    releases = _rows("vllm", "release", build_rows.Release)
    builds = _rows("vllm_builds", "build", build_rows.Build)
    nightlies = _rows("vllm_builds", "nightly", build_rows.Nightly)
    proven = _rows("proven", "proven", build_rows.Proven)
    torch_stand_ins = _rows("vllm_builds", "torch_stand_in", build_rows.TorchStandIn)
    broken_releases = _rows("vllm", "broken", build_rows.BrokenReleases)
    slices_by_uuid = _row("vllm", "slices_by_uuid", build_rows.SlicesByUuid)
    horizon = _row("bounds", "horizon", build_rows.Horizon)
    bounds = _rows("bounds", "bound", build_rows.Bound)
    timelines = _rows("bounds", "timeline", build_rows.Timeline)
    torches = _rows("torch", "torch", build_rows.Torch)
    torch_archs = _rows("torch", "arch", build_rows.TorchArch)
    rocm_archs = _rows("torch", "rocm_arch", build_rows.RocmArch)
    cuda_majors = _rows("cuda", "major", host_rows.CudaMajor)
    toolkits = _rows("cuda", "toolkit", host_rows.Toolkit)
    branches = _rows("cuda", "branch", host_rows.Branch)
    driver_faults = _rows("cuda", "driver_fault", host_rows.DriverFault)
    host_compilers = _rows("cuda", "host_compiler", host_rows.HostCompiler)
    driver_offer = _row("cuda", "offer", host_rows.DriverOffer)
    advisories = _rows("advisories", "advisory", build_rows.Advisory)
    nvidia_cards = _rows("gpus", "nvidia", host_rows.NvidiaCard)
    servers = _rows("servers", "server", host_rows.ServerProduct)
    pci_ranges = _rows("gpus", "pci_range", host_rows.PciRange)
    architectures = _rows("gpus", "architecture", host_rows.Architecture)
    amd_cards = _rows("gpus", "amd", host_rows.AmdCard)
    integrated_graphics = _rows("gpus", "integrated", host_rows.IntegratedGraphics)
    spellings = _rows("attention", "spelling", build_rows.Spelling)
    platform_backends = _rows("attention", "platform", build_rows.PlatformBackend)
    generations = _rows("attention", "generation", build_rows.Generation)
    flash_compilers = _rows("attention", "flash_compiler", build_rows.FlashCompiler)
    flash_wheels = _rows("flash_attn", "wheel", build_rows.OwnWheels)
    community_wheels = _rows("flash_attn", "community", build_rows.CommunityWheels)
    flash_sources = _rows("flash_attn", "sdist", build_rows.FlashSource)
    flash_4 = _rows("flash_attn", "generation_4", build_rows.FlashAttn4)
    flashinfer_kernels = _rows("attention", "flashinfer_kernels", build_rows.FlashInfer)
    access_groups = _rows("rocm", "access_group", host_rows.AccessGroup)
    userspaces = _rows("rocm", "userspace", host_rows.Userspace)
    levels = _rows("cpu", "level", host_rows.Level)
    needs = _rows_by("family", "needs", "need", host_rows.Need)
    python_need = _row("needs", "python", host_rows.PythonNeed)
    system_needs = _rows("system", "need", host_rows.SystemNeed)
    install_commands = _rows_by("manager", "system", "command", host_rows.InstallCommand)
    distributions = _rows("system", "distribution", host_rows.Distribution)
    linux_releases = _rows("system", "linux_release", host_rows.LinuxRelease)
    python_packages = _rows("system", "python_package", host_rows.PythonPackage)
    managed_pythons = _rows("system", "managed_python", host_rows.ManagedPython)
    platform_tag = _row("system", "platform_tag", host_rows.PlatformTag)
    package_systems = _rows("packages", "system", host_rows.PackageSystem)
    drivers_by_hand = _rows("packages", "by_hand", host_rows.DriverByHand)
    package_machines = _rows("packages", "machine", host_rows.PackageMachine)
    package_repositories = _rows("packages", "repository", host_rows.PackageRepository)
    package_components = _rows_by("name", "packages", "component", host_rows.PackageComponent)
    distribution_drivers = _rows("packages", "distribution_driver", host_rows.DistributionDriver)
    package_families = _rows_by("name", "packages", "family", host_rows.PackageFamily)

    @property
    def flash_backends(self) -> frozenset[str]:
        """Return the attention back ends that compute flash attention wherever they run, of any release."""
        others = {row.backend for row in self.platform_backends if not row.flash}
        return frozenset(row.backend for row in self.platform_backends if row.flash) - others

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
                row = build_row(kind, values, where=f"{extra.path}, {table} {number}", hint=REFRESH)
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
    return Catalog(overlays=read_overlays(overlay_folder()))
