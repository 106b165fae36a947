"""The uv program for a host: ours where the platforms agree, else taken from uv's wheel for the host, by the hash of our own lock."""

from __future__ import annotations

import platform
import re
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from provision.catalog.index.settings import ClientSettings
from provision.core.errors import StageError
from provision.core.models.staged import StagedFile
from provision.phases.stage.wheelhouse import Store

LOCK = Path(__file__).parents[3] / "requirements" / "run.txt"
"""The lock of this product itself: it holds the hash of every wheel of uv, whatever the platform."""


def stage_uv(host_platform: str, settings: ClientSettings, store: Store, *, lock: Path = LOCK) -> StagedFile:
    """The uv program for the host, as an executable file.

    Raises StageError when its wheel cannot be had, or is none that our lock knows.
    """
    version, hashes = locked_hashes(lock, "uv")
    machine = host_platform.split("-", 1)[0]
    key = f"uv-{version}-{machine}"
    if (known := store.get("tools", key)) and (path := store.find(known["sha256"], "uv")):
        return store.staged(path, "tool")
    path = _ours(store) if machine == platform.machine() else _fetched(host_platform, version, hashes, settings, store)
    store.put("tools", key, {"sha256": path.parent.name})
    return store.staged(path, "tool")


def locked_hashes(lock: Path, distribution: str) -> tuple[str, frozenset[str]]:
    """The version and all hashes that a requirements file has for a distribution.

    Raises StageError when it has none.
    """
    found = re.search(
        rf"^{re.escape(distribution)}==(\S+)((?:[^\n]*\\\n[^\n]*--hash=sha256:\w+)+)",
        lock.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    if not found:
        raise StageError(
            f"`{lock}` has no hashes of {distribution}", hint="this checkout is not complete; clone it again"
        )
    return found[1], frozenset(re.findall(r"sha256:(\w+)", found[2]))


def _ours(store: Store) -> Path:
    from provision.catalog.index.uv import uv_program  # noqa: PLC0415 (not needed once it is stored)

    return store.add(Path(uv_program()), name="uv")


def _fetched(host_platform: str, version: str, hashes: frozenset[str], settings: ClientSettings, store: Store) -> Path:
    from provision.catalog.index.sources import find_sources  # noqa: PLC0415
    from provision.phases.stage.locking import fetch_wheels  # noqa: PLC0415
    from provision.phases.stage.platforms import Target  # noqa: PLC0415
    from provision.phases.stage.solve import solve  # noqa: PLC0415
    from provision.phases.stage.solve_request import Request  # noqa: PLC0415
    from provision.phases.stage.wheel_choice import choose_wheels  # noqa: PLC0415 (not needed once it is stored)

    target = Target.of(host_platform, "3.11")
    sources = find_sources(settings)
    wheels = choose_wheels(solve(Request(target, (f"uv=={version}",)), sources.variables), target)
    for wheel in wheels:
        if wheel.sha256 not in hashes:
            raise StageError(
                f"`{wheel.name}` is announced with sha256 `{wheel.sha256}`, which requirements/run.txt does not know",
                hint="the index serves another file than the one this product was locked with; use another index",
            )
    paths = fetch_wheels(wheels, settings, sources.indexes, store)
    with TemporaryDirectory(prefix="firstlight-") as folder, zipfile.ZipFile(next(iter(paths.values()))) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        return store.add(Path(archive.extract(member, folder)), name="uv")
