"""What goes into a bundle besides the staged files: the product itself, and the wheels that its launcher makes .venv from."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from provision.catalog.index.settings import ClientSettings
from provision.core.errors import StageError
from provision.core.tables import own_table
from provision.phases.stage.host_uv import LOCK
from provision.phases.stage.wheelhouse import Store, sha256_of

ROOT = Path(__file__).resolve().parents[4]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""Pythons that a controller may run on (requirements/environment.sh looks for these)."""
_GLIBC = "manylinux_2_28"
_PRODUCT = (
    "firstlight",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "docs",
    "inventory/example",
    "inventory/local",
    "logs/README.md",
    "playbooks",
    "provision",
    "requirements",
    "verify",
)
_INVENTORIES = Path(__file__).with_name("inventories.toml")
_VARIABLES = ("inventory", "playbooks/group_vars", "playbooks/host_vars")
"""Where Ansible reads variables from: tokens and passwords stand there, and a bundle travels."""
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_PINNED = re.compile(r"^([A-Za-z0-9._-]+==\S+)( ;[^\\\n]*)?", re.MULTILINE)


def product_files(root: Path = ROOT) -> Iterator[tuple[str, Path]]:
    """Place in the product and path of every file that a controller runs from, in a fixed order; none of the user's own variables."""
    return ((place, path) for place, path in _files(root) if not _is_own(place, path))


def left_out(root: Path = ROOT) -> list[str]:
    """Files that lie among the product's and are the user's own: inventories that were changed, variables beside the playbooks."""
    return [place for place, path in _files(root) if _is_own(place, path)]


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    for name in _PRODUCT:
        start = root / name
        paths = sorted(start.rglob("*")) if start.is_dir() else [start]
        for path in paths:
            relative = path.relative_to(root)
            if path.is_file() and "__pycache__" not in relative.parts:
                yield relative.as_posix(), path


def _is_own(place: str, path: Path) -> bool:
    if not any(Path(place).is_relative_to(folder) for folder in _VARIABLES):
        return False
    return sha256_of(path) != _shipped().get(place)


@cache
def _shipped() -> dict[str, str]:
    hashes: dict[str, str] = own_table(_INVENTORIES)["sha256"]
    return hashes


def controller_wheels(store: Store, settings: ClientSettings, *, lock: Path = LOCK) -> list[Path]:
    """Every wheel of the product's own lock for this processor and each Python that a controller may have, hashes checked.

    Raises StageError when one cannot be had, or is none that the lock knows.
    """
    from provision.catalog.index.sources import find_sources  # noqa: PLC0415
    from provision.phases.stage.locking import fetch_wheels  # noqa: PLC0415
    from provision.phases.stage.platforms import Target  # noqa: PLC0415
    from provision.phases.stage.solve import solve  # noqa: PLC0415
    from provision.phases.stage.solve_request import Request  # noqa: PLC0415
    from provision.phases.stage.wheel_choice import choose_wheels  # noqa: PLC0415 (only bundles need it)

    text = lock.read_text(encoding="utf-8")
    known = set(_HASH.findall(text))
    pinned = tuple(f"{name}{marker or ''}" for name, marker in _PINNED.findall(text))
    sources = find_sources(settings)
    wanted = {}
    for python in PYTHONS:
        target = Target.of(f"{platform.machine()}-{_GLIBC}", python)
        for wheel in choose_wheels(solve(Request(target, pinned), sources.variables), target):
            if wheel.sha256 not in known:
                raise StageError(
                    f"`{wheel.name}` is announced with sha256 `{wheel.sha256}`, which {lock.name} does not know",
                    hint="the index serves another file than the one this product was locked with; use another index",
                )
            wanted[wheel.sha256] = wheel
    return sorted(fetch_wheels(wanted.values(), settings, sources.indexes, store).values(), key=lambda path: path.name)
