"""Where the catalog and the artifacts disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from packaging.specifiers import SpecifierSet

from provision.catalog.load import Catalog
from provision.catalog.refresh import wheel_metadata
from provision.catalog.refresh.index_wheels import Index, Wheel
from provision.catalog.refresh.wheel_metadata import TorchSays, VllmSays
from provision.catalog.rows.builds import Release, Torch
from provision.catalog.versions import cuda_of, numbers

AT_ONCE = 8
"""Releases that are read at the same time; each takes a handful of small requests."""

S = TypeVar("S")


@dataclass(frozen=True)
class Difference:
    """One value that is not the same on both sides."""

    subject: str
    field: str
    catalog: Any
    artifact: Any
    file: str


@dataclass(frozen=True)
class Compared:
    """What was read, what differed, and which rows of the catalog the index has no wheel for."""

    releases: int
    torches: int
    differences: tuple[Difference, ...]
    gone: tuple[str, ...]


def compare(catalog: Catalog, index: Index) -> Compared:
    """Every vLLM and torch row against the wheels that the index serves today.

    Raises IndexUnreachableError, and RangeError where the index serves neither metadata nor parts of files.
    """
    vllm, gone_vllm = _read(index, "vllm", [row.version for row in catalog.releases], wheel_metadata.vllm)
    torch, gone_torch = _read(index, "torch", [row.version for row in catalog.torches], wheel_metadata.torch)
    variants = {version: says.default_x86_64 for version, says in torch.items()}
    differences = [
        *(item for row in catalog.releases if row.version in vllm for item in _vllm(row, vllm[row.version], variants)),
        *(item for row in catalog.torches if row.version in torch for item in _torch(row, torch[row.version])),
    ]
    return Compared(len(vllm), len(torch), tuple(differences), (*gone_vllm, *gone_torch))


def _read(
    index: Index, package: str, versions: Iterable[str], read: Callable[[Index, list[Wheel], str], S | None]
) -> tuple[dict[str, S], list[str]]:
    offered = wheel_metadata.by_release(index.wheels(package))
    wanted = list(versions)
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        said = list(pool.map(lambda version: read(index, offered.get(version, []), version), wanted))
    found = {version: says for version, says in zip(wanted, said, strict=True) if says is not None}
    return found, [f"{package} {version}" for version in wanted if version not in found]


def _vllm(row: Release, says: VllmSays, variants: dict[str, str]) -> list[Difference]:
    pairs: list[tuple[str, Any, Any]] = [
        ("date", row.date, says.date or row.date),
        ("python", SpecifierSet(row.python), SpecifierSet(says.python)),
        ("torch", row.torch, says.torch),
        ("machines", row.machines, says.machines),
        ("torchvision", _final(row.torchvision), _final(says.torchvision)),
        ("torchaudio", _final(row.torchaudio), _final(says.torchaudio)),
        ("flashinfer", row.flashinfer, says.flashinfer),
        ("flashinfer_cubin", row.flashinfer_cubin, says.flashinfer_cubin),
        ("cuda", row.cuda, says.cuda or row.cuda),
    ]
    major = cuda_of(variants.get(says.torch or "", ""))
    if major is not None:
        pairs.append(("cuda major, by torch's own", numbers(row.cuda)[0], numbers(major)[0]))
    if numbers(row.glibc) < numbers(says.glibc):
        pairs.append(("glibc, by the tag", row.glibc, says.glibc))
    return _differing(f"vllm {row.version}", pairs, says.file)


def _torch(row: Torch, says: TorchSays) -> list[Difference]:
    pairs: list[tuple[str, Any, Any]] = [
        ("python", SpecifierSet(row.python), SpecifierSet(says.python)),
        ("pythons", row.pythons, says.pythons),
        ("default_x86_64", row.default_x86_64, says.default_x86_64),
        ("default_aarch64", row.default_aarch64, says.default_aarch64),
    ]
    if numbers(row.glibc) < numbers(says.glibc):
        pairs.append(("glibc, by the tag", row.glibc, says.glibc))
    return _differing(f"torch {row.version}", pairs, says.file)


def _differing(subject: str, pairs: list[tuple[str, Any, Any]], file: str) -> list[Difference]:
    return [
        Difference(subject, field, _plain(ours), _plain(theirs), file)
        for field, ours, theirs in pairs
        if ours != theirs
    ]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, SpecifierSet) else value


def _final(version: str | None) -> str | None:
    """`0.19` and `0.19.0` pin the same release."""
    return None if version is None else version if version.count(".") > 1 else f"{version}.0"
