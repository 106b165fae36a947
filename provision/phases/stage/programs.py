"""Programs for hosts: uv by the hashes in this product's own lock, and Python where a host has none that fits.

Such a Python is a standalone build, fetched and verified by uv, packed for the upload. uv's settings apply:
UV_PYTHON_INSTALL_MIRROR, UV_PYTHON_DOWNLOADS_JSON_URL, and their like in the user's uv.toml.
"""

import gzip
import hashlib
import os
import platform
import re
import tarfile
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path

from provision.catalog.index.project_page import find_sources
from provision.catalog.index.settings import ClientSettings, network_variables, without_credentials
from provision.catalog.index.uv import refusal, uv_program
from provision.core.errors import StageError
from provision.core.folders import product_path
from provision.core.models.staged import StagedFile
from provision.core.process import run_program
from provision.core.requirements_file import read_lock
from provision.core.scratch import scratch_folder
from provision.phases.stage.solve import LockedWheel, SolveRequest, Target, choose_wheels, solve
from provision.phases.stage.stack_lock import fetch_wheels
from provision.phases.stage.wheelhouse import Store

LOCK = product_path("requirements/run.txt")
"""The lock of this product. It has the hashes of all wheels of uv, for every platform."""
TIMEOUT_S = 900.0
_BUILT_FOR = b"/install"
"""The prefix of the standalone builds before uv replaces it by the installation folder."""
_WRITTEN_OVER = ("lib/python*/_sysconfigdata*.py", "lib/pkgconfig/*.pc", "lib/python*/build-details.json")


def locked_uv() -> tuple[str, frozenset[str]]:
    """Return the version and all hashes of uv in the lock. Raises StageError where it has none."""
    packages = read_lock(LOCK.read_text(encoding="utf-8"))
    found = next((package for package in packages if package.name == "uv" and package.hashes), None)
    if found is None:
        raise StageError(f"`{LOCK}` has no hashes of uv", hint="this checkout is incomplete; clone it again")
    return found.version, frozenset(found.hashes)


def require_locked(wheels: Iterable[LockedWheel], hashes: Collection[str], lock: Path) -> None:
    """Refuse wheels that an index announces with another hash than a requirements file has. Raises StageError."""
    for wheel in wheels:
        if wheel.sha256 not in hashes:
            raise StageError(
                f"`{wheel.name}` is announced with sha256 `{wheel.sha256}`, which {lock.parent.name}/{lock.name} does not know",
                hint="the index serves another file than the locked one; use another index",
            )


def stage_uv(host_platform: str, settings: ClientSettings, store: Store) -> StagedFile:
    """Put the uv program for a host into the wheelhouse, as an executable file.

    Raises StageError where its wheel cannot be had, or its hash is not in the lock.
    """
    version, hashes = locked_uv()
    machine = host_platform.split("-", 1)[0]
    key = f"uv-{version}-{machine}"
    if (known := store.get("tools", key)) and (path := store.find(known["sha256"], "uv")):
        return store.staged(path, "tool")
    if machine == platform.machine():
        path = store.add(Path(uv_program()), name="uv")
    else:
        target, sources = Target.of(host_platform, "3.11"), find_sources(settings)
        wheels = choose_wheels(solve(SolveRequest(target, (f"uv=={version}",)), sources.variables), target)
        require_locked(wheels, hashes, LOCK)
        wheel = next(iter(fetch_wheels(wheels, sources, store).values()))
        with scratch_folder() as folder, zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
            path = store.add(Path(archive.extract(member, folder)), name="uv")
    store.put("tools", key, {"sha256": path.parent.name})
    return store.staged(path, "tool")


def stage_interpreter(
    target: Target, settings: ClientSettings, store: Store, *, refresh: bool = False
) -> tuple[str, StagedFile]:
    """Put a managed Python into the wheelhouse, as an archive.

    Returns:
        The full version, and the archive. It has one folder at its top, named like the build (`cpython-3.12.11-linux-x86_64-gnu`).

    Raises:
        StageError: The build cannot be fetched, or has the wrong hash.
    """
    wanted = f"cpython-{target.python}-linux-{target.machine}-gnu"
    parts = [wanted, locked_uv()[0], settings.digest()]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    known = None if refresh else store.get("interpreters", key)
    if known and (path := store.find(known["sha256"], known["name"])):
        return str(known["version"]), store.staged(path, "interpreter")
    if settings.bundled:
        raise StageError(
            f"`{settings.bundled.name}` has no `{wanted}`, and this class of host has no Python that fits",
            hint="create a bundle for it on a machine with a network: ./firstlight bundle create -i INVENTORY",
        )
    with scratch_folder() as scratch:
        folder = _install(wanted, scratch / "python", settings)
        version = folder.name.split("-")[1]
        archive = scratch / f"{folder.name}.tar.gz"
        pack(folder, archive)
        path = store.add(archive)
    store.put("interpreters", key, {"version": version, "sha256": path.parent.name, "name": path.name})
    return version, store.staged(path, "interpreter")


def pack(folder: Path, archive: Path) -> None:
    """Write a tar whose bytes depend only on the content of the folder: sorted, without times, owners and absolute paths."""
    for pattern in _WRITTEN_OVER:
        for path in folder.glob(pattern):
            path.write_bytes(path.read_bytes().replace(os.fsencode(folder), _BUILT_FOR))
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in (folder, *sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)):
            tar.add(path, arcname=path.relative_to(folder.parent).as_posix(), recursive=False, filter=_plain)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def _install(wanted: str, into: Path, settings: ClientSettings) -> Path:
    command = [uv_program(), "python", "install", "--no-bin", "--install-dir", str(into), wanted]
    environ = {
        "UV_HTTP_RETRIES": "2",
        **os.environ,
        **network_variables(settings),
        "NO_COLOR": "1",
        "UV_NO_PROGRESS": "1",
    }
    named = (environ.get(name) for name in ("UV_PYTHON_INSTALL_MIRROR", "UV_PYTHON_DOWNLOADS_JSON_URL"))
    mirror = without_credentials(next(filter(None, named), "uv's default mirror"))
    hint = "set UV_PYTHON_INSTALL_MIRROR to a mirror of the standalone builds that this machine can reach, or give the host a Python that fits"
    timeout_error = StageError(f"`{wanted}` did not arrive from {mirror} within {TIMEOUT_S:.0f} s", hint=hint)
    done = run_program(command, timeout_error, timeout_s=TIMEOUT_S, cwd=into.parent, env=environ)
    if done.returncode:
        raise StageError(f"`{wanted}` could not be fetched from {mirror}: {refusal(done.stderr)}", hint=hint)
    for path in sorted(into.iterdir()):
        if path.is_dir() and not path.is_symlink() and re.match(r"cpython-\d+\.\d+\.\d+", path.name):
            return path
    raise StageError(f"uv installed `{wanted}` without its folder", hint=hint)
