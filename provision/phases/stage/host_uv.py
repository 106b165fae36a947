"""The uv program for a host: a copy of the controller's where the platforms agree, else from uv's wheel for the host."""

from __future__ import annotations

import platform
import zipfile
from pathlib import Path

from provision.catalog.index.settings import ClientSettings
from provision.catalog.index.uv import uv_program
from provision.core.folders import product_path
from provision.core.models.staged import StagedFile
from provision.core.scratch import scratch_folder
from provision.phases.stage.locked_wheel import fetch_locked_wheel, locked_hashes
from provision.phases.stage.platforms import Target
from provision.phases.stage.wheelhouse import Store

LOCK = product_path("requirements/run.txt")
"""The lock of this product. It has the hashes of all wheels of uv, for every platform."""


def stage_uv(host_platform: str, settings: ClientSettings, store: Store, *, lock: Path = LOCK) -> StagedFile:
    """Put the uv program for a host into the wheelhouse, as an executable file.

    Raises:
        StageError: Its wheel cannot be had, or its hash is not in the lock.
    """
    version, _ = locked_hashes(lock, "uv")
    machine = host_platform.split("-", 1)[0]
    key = f"uv-{version}-{machine}"
    if (known := store.get("tools", key)) and (path := store.find(known["sha256"], "uv")):
        return store.staged(path, "tool")
    path = _copy_own(store) if machine == platform.machine() else _fetch(host_platform, settings, store, lock)
    store.put("tools", key, {"sha256": path.parent.name})
    return store.staged(path, "tool")


def _copy_own(store: Store) -> Path:
    return store.add(Path(uv_program()), name="uv")


def _fetch(host_platform: str, settings: ClientSettings, store: Store, lock: Path) -> Path:
    wheel = fetch_locked_wheel("uv", Target.of(host_platform, "3.11"), settings, store, lock)
    with scratch_folder() as folder, zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        return store.add(Path(archive.extract(member, folder)), name="uv")
