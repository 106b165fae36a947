"""A managed Python for hosts that have none that fits: a standalone build, fetched through uv with uv's own hash check, packed for sending.

uv's settings hold: UV_PYTHON_INSTALL_MIRROR, UV_PYTHON_DOWNLOADS_JSON_URL, and their like in the user's uv.toml.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from provision.catalog.index.settings import ClientSettings, uv_variables, without_credentials
from provision.catalog.index.uv import refusal, uv_program
from provision.core.errors import StageError
from provision.core.models.staged import StagedFile
from provision.phases.stage.host_uv import LOCK, locked_hashes
from provision.phases.stage.platforms import Target
from provision.phases.stage.wheelhouse import Store

TIMEOUT_S = 900.0
_BUILT_FOR = b"/install"
"""The prefix that the standalone builds carry before uv writes the place of installation over it."""
_WRITTEN_OVER = ("lib/python*/_sysconfigdata*.py", "lib/pkgconfig/*.pc", "lib/python*/build-details.json")


def stage_interpreter(
    target: Target, settings: ClientSettings, store: Store, *, refresh: bool = False
) -> tuple[str, StagedFile]:
    """The full version, and the archive: one folder at its top, named like the build (`cpython-3.12.11-linux-x86_64-gnu`).

    Raises StageError when the build cannot be fetched, or has the wrong hash.
    """
    wanted = f"cpython-{target.python}-linux-{target.machine}-gnu"
    parts = [wanted, locked_hashes(LOCK, "uv")[0], settings.digest()]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    known = None if refresh else store.get("interpreters", key)
    if known and (path := store.find(known["sha256"], known["name"])):
        return str(known["version"]), store.staged(path, "interpreter")
    if settings.bundled:
        raise StageError(
            f"`{settings.bundled.name}` has no `{wanted}`, and this class of host has no Python that fits",
            hint="make a bundle for it where there is a network: ./firstlight bundle create -i INVENTORY",
        )
    with TemporaryDirectory(prefix="firstlight-") as name:
        folder = _install(wanted, Path(name) / "python", settings)
        version = folder.name.split("-")[1]
        archive = Path(name) / f"{folder.name}.tar.gz"
        pack(folder, archive)
        path = store.add(archive)
    store.put("interpreters", key, {"version": version, "sha256": path.parent.name, "name": path.name})
    return version, store.staged(path, "interpreter")


def pack(folder: Path, archive: Path) -> None:
    """A tar whose bytes depend on the folder's content alone: sorted, without times, owners and the folder's own place."""
    for pattern in _WRITTEN_OVER:
        for path in folder.glob(pattern):
            path.write_bytes(path.read_bytes().replace(os.fsencode(folder), _BUILT_FOR))
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in _members(folder):
            tar.add(path, arcname=path.relative_to(folder.parent).as_posix(), recursive=False, filter=_plain)


def _members(folder: Path) -> Iterator[Path]:
    yield folder
    yield from sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def _install(wanted: str, into: Path, settings: ClientSettings) -> Path:
    command = [uv_program(), "python", "install", "--no-bin", "--install-dir", str(into), wanted]
    variables = uv_variables(settings, default_index="") if settings.certificate or settings.proxy else {}
    network = {name: value for name, value in variables.items() if not name.startswith("UV_")}
    environ = {"UV_HTTP_RETRIES": "2", **os.environ, **network, "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}
    mirror = (
        environ.get("UV_PYTHON_INSTALL_MIRROR") or environ.get("UV_PYTHON_DOWNLOADS_JSON_URL") or "uv's default place"
    )
    hint = "set UV_PYTHON_INSTALL_MIRROR to a mirror of the standalone builds that this machine can reach, or give the host a Python that fits"
    try:
        done = subprocess.run(
            command, cwd=into.parent, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StageError(
            f"`{wanted}` did not come from {without_credentials(mirror)} within {TIMEOUT_S:.0f} s", hint=hint
        ) from error
    if done.returncode:
        raise StageError(
            f"`{wanted}` could not be fetched from {without_credentials(mirror)}: {refusal(done.stderr)}", hint=hint
        )
    for path in sorted(into.iterdir()):
        if path.is_dir() and not path.is_symlink() and re.match(r"cpython-\d+\.\d+\.\d+", path.name):
            return path
    raise StageError(f"uv installed `{wanted}`, but no such folder is there", hint=hint)
