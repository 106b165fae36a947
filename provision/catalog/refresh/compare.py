"""Comparison of the catalog with the wheels of an index."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from packaging.specifiers import SpecifierSet

from provision.catalog.load import Catalog
from provision.catalog.refresh import wheel_metadata
from provision.catalog.refresh.index_wheels import Wheel, WheelIndex
from provision.catalog.refresh.wheel_metadata import TorchMetadata, VllmMetadata
from provision.catalog.rows.builds import Release, Torch
from provision.catalog.versions import cuda_of, numbers

AT_ONCE = 8
"""Releases that are read in parallel, each by a few small requests."""

S = TypeVar("S")


@dataclass(frozen=True)
class CatalogDifference:
    """A value that differs between the catalog and a wheel."""

    subject: str
    field: str
    catalog: Any
    artifact: Any
    file: str


@dataclass(frozen=True)
class CatalogComparison:
    """The numbers of compared releases, the differences, and the rows without a wheel on the index."""

    releases: int
    torches: int
    differences: tuple[CatalogDifference, ...]
    gone: tuple[str, ...]


def compare(catalog: Catalog, index: WheelIndex) -> CatalogComparison:
    """Compare every vLLM and torch row with the wheels on the index.

    Raises:
        IndexReadError: No index answers.
        RangeError: The index serves neither metadata nor parts of files.

    """
    vllm, gone_vllm = _read(index, "vllm", [row.version for row in catalog.releases], wheel_metadata.vllm)
    torch, gone_torch = _read(index, "torch", [row.version for row in catalog.torches], wheel_metadata.torch)
    variants = {version: actual.default_x86_64 for version, actual in torch.items()}
    differences = [
        *(item for row in catalog.releases if row.version in vllm for item in _vllm(row, vllm[row.version], variants)),
        *(item for row in catalog.torches if row.version in torch for item in _torch(row, torch[row.version])),
    ]
    return CatalogComparison(len(vllm), len(torch), tuple(differences), (*gone_vllm, *gone_torch))


def _read(
    index: WheelIndex, package: str, versions: Iterable[str], read: Callable[[WheelIndex, list[Wheel], str], S | None]
) -> tuple[dict[str, S], list[str]]:
    offered = wheel_metadata.by_release(index.wheels(package))
    wanted = list(versions)
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        releases = list(pool.map(lambda version: read(index, offered.get(version, []), version), wanted))
    found = {version: actual for version, actual in zip(wanted, releases, strict=True) if actual is not None}
    return found, [f"{package} {version}" for version in wanted if version not in found]


def _vllm(row: Release, actual: VllmMetadata, variants: dict[str, str]) -> list[CatalogDifference]:
    pairs: list[tuple[str, Any, Any]] = [
        ("date", row.date, actual.date or row.date),
        ("python", SpecifierSet(row.python), SpecifierSet(actual.python)),
        ("torch", row.torch, actual.torch),
        ("machines", row.machines, actual.machines),
        ("torchvision", _final(row.torchvision), _final(actual.torchvision)),
        ("torchaudio", _final(row.torchaudio), _final(actual.torchaudio)),
        ("flashinfer", row.flashinfer, actual.flashinfer),
        ("flashinfer_cubin", row.flashinfer_cubin, actual.flashinfer_cubin),
        ("cuda", row.cuda, actual.cuda or row.cuda),
    ]
    major = cuda_of(variants.get(actual.torch or "", ""))
    if major is not None:
        pairs.append(("cuda major, by torch's own", numbers(row.cuda)[0], numbers(major)[0]))
    if numbers(row.glibc) < numbers(actual.glibc):
        pairs.append(("glibc, by the tag", row.glibc, actual.glibc))
    return _differing(f"vllm {row.version}", pairs, actual.file)


def _torch(row: Torch, actual: TorchMetadata) -> list[CatalogDifference]:
    pairs: list[tuple[str, Any, Any]] = [
        ("python", SpecifierSet(row.python), SpecifierSet(actual.python)),
        ("pythons", row.pythons, actual.pythons),
        ("default_x86_64", row.default_x86_64, actual.default_x86_64),
        ("default_aarch64", row.default_aarch64, actual.default_aarch64),
    ]
    if numbers(row.glibc) < numbers(actual.glibc):
        pairs.append(("glibc, by the tag", row.glibc, actual.glibc))
    return _differing(f"torch {row.version}", pairs, actual.file)


def _differing(subject: str, pairs: list[tuple[str, Any, Any]], file: str) -> list[CatalogDifference]:
    return [
        CatalogDifference(subject, field, _plain(row), _plain(wheel), file)
        for field, row, wheel in pairs
        if row != wheel
    ]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, SpecifierSet) else value


def _final(version: str | None) -> str | None:
    """Normalize a pin: `0.19` and `0.19.0` are the same release."""
    return None if version is None else version if version.count(".") > 1 else f"{version}.0"
