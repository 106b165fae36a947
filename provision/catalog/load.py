"""Reads the tables: each file when it is first asked for, once a process."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from provision.catalog import attention_rows, overlay, rows
from provision.catalog.overlay import CatalogError, Overlay

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FOLDER = Path(__file__).parent

R = TypeVar("R", bound=rows.Row)


def build(kind: type[R], values: dict[str, Any], *, where: str) -> R:
    """One row from its TOML values. Raises CatalogError when a field is missing or unknown, or the source is empty."""
    known = {field.name for field in fields(kind)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise CatalogError(f"{where}: unknown field `{unknown[0]}`", hint=f"the fields are: {', '.join(sorted(known))}")
    missing = [field.name for field in fields(kind) if field.default is MISSING and field.name not in values]
    if missing:
        raise CatalogError(f"{where}: no {', '.join(f'`{name}`' for name in missing)}")
    typed: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    row = kind(**typed)
    if not row.source:
        raise CatalogError(
            f"{where}: a row without a source", hint="name the artifact or the page that the row was read from"
        )
    return row


_adapters: dict[type[rows.Row], dict[str, TypeAdapter[Any]]] = {}


def mistyped(row: rows.Row) -> Iterator[str]:
    """What is wrong with the types of a row's values, a sentence a field."""
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - the product's own tables are right without it

    kind = type(row)
    if kind not in _adapters:
        hints = get_type_hints(kind)
        _adapters[kind] = {field.name: TypeAdapter(hints[field.name]) for field in fields(kind)}
    for field, adapter in _adapters[kind].items():
        try:
            adapter.validate_python(getattr(row, field), strict=True)
        except ValidationError as error:
            yield f"`{field}` is {getattr(row, field)!r}: {error.errors()[0]['msg']}"


class Catalog:
    """All tables of a folder, and what overlays add to them."""

    def __init__(self, folder: Path = FOLDER, overlays: Sequence[Overlay] = ()) -> None:
        self.folder = folder
        self.overlays = tuple(overlays)
        self._files: dict[str, dict[str, Any]] = {}

    def _rows(self, file: str, table: str, kind: type[R]) -> tuple[R, ...]:
        if file not in self._files:
            path = self.folder / f"{file}.toml"
            try:
                self._files[file] = tomllib.loads(path.read_text(encoding="utf-8"))
            except (OSError, tomllib.TOMLDecodeError) as error:
                raise CatalogError(f"{path.name}: {error}") from None
        found = self._files[file].get(table)
        if not found:
            raise CatalogError(f"{file}.toml: no table `{table}`")
        own = tuple(build(kind, values, where=f"{file}.toml, {table} {place}") for place, values in enumerate(found, 1))
        return (*own, *self._added(table, kind, {_subject(row) for row in own})) if self.overlays else own

    def _added(self, table: str, kind: type[R], known: set[tuple[Any, ...]]) -> Iterator[R]:
        for extra in self.overlays:
            for place, values in enumerate(extra.tables.get(table, ()), 1):
                where = f"{extra.path}, {table} {place}"
                row = build(kind, values, where=where)
                for wrong in mistyped(row):
                    raise CatalogError(f"{where}: {wrong}", hint=overlay.AGAIN)
                if _subject(row) not in known:
                    known.add(_subject(row))
                    yield row

    @cached_property
    def releases(self) -> tuple[rows.Release, ...]:
        return self._rows("vllm", "release", rows.Release)

    @cached_property
    def builds(self) -> tuple[rows.Build, ...]:
        return self._rows("vllm_builds", "build", rows.Build)

    @cached_property
    def torch_stand_ins(self) -> tuple[rows.TorchStandIn, ...]:
        return self._rows("vllm_builds", "torch_stand_in", rows.TorchStandIn)

    @cached_property
    def import_failures(self) -> tuple[rows.ImportFailure, ...]:
        return self._rows("vllm", "import_failure", rows.ImportFailure)

    @cached_property
    def horizon(self) -> rows.Horizon:
        return self._rows("bounds", "horizon", rows.Horizon)[0]

    @cached_property
    def bounds(self) -> tuple[rows.Bound, ...]:
        return self._rows("bounds", "bound", rows.Bound)

    @cached_property
    def timelines(self) -> tuple[rows.Timeline, ...]:
        return self._rows("bounds", "timeline", rows.Timeline)

    @cached_property
    def torches(self) -> tuple[rows.Torch, ...]:
        return self._rows("torch", "torch", rows.Torch)

    @cached_property
    def torch_archs(self) -> tuple[rows.TorchArch, ...]:
        return self._rows("torch", "arch", rows.TorchArch)

    @cached_property
    def rocm_archs(self) -> tuple[rows.RocmArch, ...]:
        return self._rows("torch", "rocm_arch", rows.RocmArch)

    @cached_property
    def cuda_majors(self) -> tuple[rows.CudaMajor, ...]:
        return self._rows("cuda", "major", rows.CudaMajor)

    @cached_property
    def toolkits(self) -> tuple[rows.Toolkit, ...]:
        return self._rows("cuda", "toolkit", rows.Toolkit)

    @cached_property
    def branches(self) -> tuple[rows.Branch, ...]:
        return self._rows("cuda", "branch", rows.Branch)

    @cached_property
    def driver_faults(self) -> tuple[rows.DriverFault, ...]:
        return self._rows("cuda", "driver_fault", rows.DriverFault)

    @cached_property
    def host_compilers(self) -> tuple[rows.HostCompiler, ...]:
        return self._rows("cuda", "host_compiler", rows.HostCompiler)

    @cached_property
    def driver_offer(self) -> rows.DriverOffer:
        return self._rows("cuda", "offer", rows.DriverOffer)[0]

    @cached_property
    def nvidia_cards(self) -> tuple[rows.NvidiaCard, ...]:
        return self._rows("gpus", "nvidia", rows.NvidiaCard)

    @cached_property
    def architectures(self) -> tuple[rows.Architecture, ...]:
        return self._rows("gpus", "architecture", rows.Architecture)

    @cached_property
    def amd_cards(self) -> tuple[rows.AmdCard, ...]:
        return self._rows("gpus", "amd", rows.AmdCard)

    @cached_property
    def integrated_graphics(self) -> tuple[rows.IntegratedGraphics, ...]:
        return self._rows("gpus", "integrated", rows.IntegratedGraphics)

    @cached_property
    def spellings(self) -> tuple[attention_rows.Spelling, ...]:
        return self._rows("attention", "spelling", attention_rows.Spelling)

    @cached_property
    def platform_backends(self) -> tuple[attention_rows.PlatformBackend, ...]:
        return self._rows("attention", "platform", attention_rows.PlatformBackend)

    @property
    def flash_backends(self) -> frozenset[str]:
        """Attention back ends whose kernels are those of FlashAttention, by any release's name."""
        return frozenset(row.backend for row in self.platform_backends if row.flash)

    @cached_property
    def generations(self) -> tuple[attention_rows.Generation, ...]:
        return self._rows("attention", "generation", attention_rows.Generation)

    @cached_property
    def flash_compilers(self) -> tuple[attention_rows.FlashCompiler, ...]:
        return self._rows("attention", "flash_compiler", attention_rows.FlashCompiler)

    @cached_property
    def flash_wheels(self) -> tuple[attention_rows.FlashWheels, ...]:
        return self._rows("flash_attn", "wheel", attention_rows.FlashWheels)

    @cached_property
    def community_wheels(self) -> tuple[attention_rows.CommunityWheels, ...]:
        return self._rows("flash_attn", "community", attention_rows.CommunityWheels)

    @cached_property
    def flash_sources(self) -> tuple[attention_rows.FlashSource, ...]:
        return self._rows("flash_attn", "sdist", attention_rows.FlashSource)

    @cached_property
    def flashinfer_kernels(self) -> tuple[attention_rows.FlashInfer, ...]:
        return self._rows("attention", "flashinfer_kernels", attention_rows.FlashInfer)

    @cached_property
    def access_groups(self) -> tuple[rows.AccessGroup, ...]:
        return self._rows("rocm", "access_group", rows.AccessGroup)

    @cached_property
    def userspaces(self) -> tuple[rows.Userspace, ...]:
        return self._rows("rocm", "userspace", rows.Userspace)

    @cached_property
    def levels(self) -> tuple[rows.Level, ...]:
        return self._rows("cpu", "level", rows.Level)

    @cached_property
    def needs(self) -> dict[str, rows.Need]:
        return {need.family: need for need in self._rows("needs", "need", rows.Need)}

    @cached_property
    def python_need(self) -> rows.PythonNeed:
        return self._rows("needs", "python", rows.PythonNeed)[0]

    @cached_property
    def system_needs(self) -> tuple[rows.SystemNeed, ...]:
        return self._rows("system", "need", rows.SystemNeed)

    @cached_property
    def install_commands(self) -> dict[str, rows.InstallCommand]:
        return {row.manager: row for row in self._rows("system", "command", rows.InstallCommand)}

    @cached_property
    def linux_releases(self) -> tuple[rows.LinuxRelease, ...]:
        return self._rows("system", "linux_release", rows.LinuxRelease)

    @cached_property
    def python_packages(self) -> tuple[rows.PythonPackage, ...]:
        return self._rows("system", "python_package", rows.PythonPackage)

    @cached_property
    def managed_pythons(self) -> tuple[rows.ManagedPython, ...]:
        return self._rows("system", "managed_python", rows.ManagedPython)

    @cached_property
    def platform_tag(self) -> rows.PlatformTag:
        return self._rows("system", "platform_tag", rows.PlatformTag)[0]

    @cached_property
    def package_systems(self) -> tuple[rows.PackageSystem, ...]:
        return self._rows("packages", "system", rows.PackageSystem)

    @cached_property
    def package_machines(self) -> tuple[rows.PackageMachine, ...]:
        return self._rows("packages", "machine", rows.PackageMachine)

    @cached_property
    def package_repositories(self) -> tuple[rows.PackageRepository, ...]:
        return self._rows("packages", "repository", rows.PackageRepository)

    @cached_property
    def package_components(self) -> dict[str, rows.PackageComponent]:
        return {row.name: row for row in self._rows("packages", "component", rows.PackageComponent)}

    @cached_property
    def distribution_drivers(self) -> tuple[rows.DistributionDriver, ...]:
        return self._rows("packages", "distribution_driver", rows.DistributionDriver)

    @cached_property
    def package_families(self) -> dict[str, rows.PackageFamily]:
        return {row.name: row for row in self._rows("packages", "family", rows.PackageFamily)}

    def everything(self) -> dict[str, Any]:
        """Every table by name: for checks that must see all rows."""
        return {
            name: getattr(self, name) for name, value in vars(type(self)).items() if isinstance(value, cached_property)
        }


def _subject(row: rows.Row) -> tuple[Any, ...]:
    """What a row is about; only tables that overlays may add to have such rows."""
    return tuple(getattr(row, name, None) for name in ("version", "variant", "provider"))


@cache
def catalog() -> Catalog:
    """The tables of this product with the user's overlays, shared within the process. Raises CatalogError for a broken overlay."""
    return Catalog(overlays=overlay.read_all(overlay.folder()))
