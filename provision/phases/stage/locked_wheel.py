"""The uv program for a host, by the hashes in a requirements file of this product."""

from __future__ import annotations

import platform
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path

from provision.catalog.index.settings import ClientSettings
from provision.catalog.index.sources import find_sources
from provision.catalog.index.uv import uv_program
from provision.core.errors import StageError
from provision.core.folders import product_path
from provision.core.models.staged import StagedFile
from provision.core.requirements_file import read_lock
from provision.core.scratch import scratch_folder
from provision.phases.stage.platforms import Target
from provision.phases.stage.solve import LockedWheel, SolveRequest, choose_wheels, solve
from provision.phases.stage.stack_lock import fetch_wheels
from provision.phases.stage.wheelhouse import Store

LOCK = product_path("requirements/run.txt")
"""The lock of this product. It has the hashes of all wheels of uv, for every platform."""


def locked_hashes(lock: Path, distribution: str) -> tuple[str, frozenset[str]]:
    """Return the version and all hashes of a distribution in a requirements file.

    Raises:
        StageError: The file has none.
    """
    text = lock.read_text(encoding="utf-8")
    found = next((package for package in read_lock(text) if package.name == distribution and package.hashes), None)
    if found is None:
        raise StageError(
            f"`{lock}` has no hashes of {distribution}", hint="this checkout is incomplete; clone it again"
        )
    return found.version, frozenset(found.hashes)


def require_locked(wheels: Iterable[LockedWheel], hashes: Collection[str], lock: Path) -> None:
    """Refuse wheels that an index announces with another hash than a requirements file has.

    Raises:
        StageError: The file has no such hash.
    """
    for wheel in wheels:
        if wheel.sha256 not in hashes:
            raise StageError(
                f"`{wheel.name}` is announced with sha256 `{wheel.sha256}`, which {lock.parent.name}/{lock.name} does not know",
                hint="the index serves another file than the locked one; use another index",
            )


def stage_uv(host_platform: str, settings: ClientSettings, store: Store) -> StagedFile:
    """Put the uv program for a host into the wheelhouse, as an executable file.

    Raises:
        StageError: Its wheel cannot be had, or its hash is not in the lock.
    """
    version, _ = locked_hashes(LOCK, "uv")
    machine = host_platform.split("-", 1)[0]
    key = f"uv-{version}-{machine}"
    if (known := store.get("tools", key)) and (path := store.find(known["sha256"], "uv")):
        return store.staged(path, "tool")
    if machine == platform.machine():
        path = store.add(Path(uv_program()), name="uv")
    else:
        path = _fetch_uv(host_platform, settings, store)
    store.put("tools", key, {"sha256": path.parent.name})
    return store.staged(path, "tool")


def _fetch_uv(host_platform: str, settings: ClientSettings, store: Store) -> Path:
    version, hashes = locked_hashes(LOCK, "uv")
    target, sources = Target.of(host_platform, "3.11"), find_sources(settings)
    wheels = choose_wheels(solve(SolveRequest(target, (f"uv=={version}",)), sources.variables), target)
    require_locked(wheels, hashes, LOCK)
    wheel = next(iter(fetch_wheels(wheels, sources, store).values()))
    with scratch_folder() as folder, zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        return store.add(Path(archive.extract(member, folder)), name="uv")
