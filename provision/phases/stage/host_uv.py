"""The uv program for a host: a copy of the controller's where the platforms agree, else from uv's wheel for the host."""

from __future__ import annotations

import platform
import re
import zipfile
from pathlib import Path

from provision.catalog.index.settings import ClientSettings
from provision.core.errors import StageError
from provision.core.models.staged import StagedFile
from provision.core.scratch import scratch_folder
from provision.phases.stage.wheelhouse import Store

LOCK = Path(__file__).parents[3] / "requirements" / "run.txt"
"""The lock of this product. It has the hashes of all wheels of uv, for every platform."""


def stage_uv(host_platform: str, settings: ClientSettings, store: Store, *, lock: Path = LOCK) -> StagedFile:
    """Put the uv program for a host into the wheelhouse, as an executable file.

    Raises:
        StageError: Its wheel cannot be had, or its hash is not in the lock.

    """
    version, hashes = locked_hashes(lock, "uv")
    machine = host_platform.split("-", 1)[0]
    key = f"uv-{version}-{machine}"
    if (known := store.get("tools", key)) and (path := store.find(known["sha256"], "uv")):
        return store.staged(path, "tool")
    path = (
        _copy_own(store) if machine == platform.machine() else _fetch(host_platform, version, hashes, settings, store)
    )
    store.put("tools", key, {"sha256": path.parent.name})
    return store.staged(path, "tool")


def locked_hashes(lock: Path, distribution: str) -> tuple[str, frozenset[str]]:
    """Return the version and all hashes of a distribution in a requirements file.

    Raises:
        StageError: The file has none.

    """
    found = re.search(
        rf"^{re.escape(distribution)}==(\S+)((?:[^\n]*\\\n[^\n]*--hash=sha256:\w+)+)",
        lock.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    if not found:
        raise StageError(
            f"`{lock}` has no hashes of {distribution}", hint="this checkout is incomplete; clone it again"
        )
    return found[1], frozenset(re.findall(r"sha256:(\w+)", found[2]))


def _copy_own(store: Store) -> Path:
    from provision.catalog.index.uv import uv_program

    return store.add(Path(uv_program()), name="uv")


def _fetch(host_platform: str, version: str, hashes: frozenset[str], settings: ClientSettings, store: Store) -> Path:
    from provision.catalog.index.sources import find_sources
    from provision.phases.stage.platforms import Target
    from provision.phases.stage.solve import solve
    from provision.phases.stage.solve_request import SolveRequest
    from provision.phases.stage.stack_lock import fetch_wheels
    from provision.phases.stage.wheel_choice import choose_wheels

    target = Target.of(host_platform, "3.11")
    sources = find_sources(settings)
    wheels = choose_wheels(solve(SolveRequest(target, (f"uv=={version}",)), sources.variables), target)
    for wheel in wheels:
        if wheel.sha256 not in hashes:
            raise StageError(
                f"`{wheel.name}` is announced with sha256 `{wheel.sha256}`, which requirements/run.txt does not know",
                hint="the index serves another file than the locked one; use another index",
            )
    paths = fetch_wheels(wheels, settings, sources.indexes, store)
    with scratch_folder() as folder, zipfile.ZipFile(next(iter(paths.values()))) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        return store.add(Path(archive.extract(member, folder)), name="uv")
