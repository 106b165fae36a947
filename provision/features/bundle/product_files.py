"""The files of a bundle besides the staged ones: the product, and the wheels for its launcher's environment."""

import platform
from collections.abc import Iterator
from pathlib import Path

from provision import __version__
from provision.catalog.index.project_page import find_sources
from provision.catalog.index.settings import ClientSettings
from provision.core.errors import BundleError
from provision.core.folders import product_path
from provision.core.requirements_file import read_lock
from provision.core.tables import own_table
from provision.features.bundle.manifest import PRODUCT, Manifest
from provision.phases.stage.programs import LOCK, require_locked
from provision.phases.stage.solve import SolveRequest, Target, choose_wheels, solve
from provision.phases.stage.stack_lock import fetch_wheels
from provision.phases.stage.wheelhouse import Store, sha256_of

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""Python versions that a controller may have (requirements/environment.sh looks for these)."""
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
"""Folders from which Ansible reads variables. They may have tokens and passwords, which must not be in a bundle."""
_LEFT_OUT = frozenset({"__pycache__", "_files"})
"""Byte code, and what an installed product has inside the package and a checkout beside it."""


def product_files(root: Path | None = None) -> Iterator[tuple[str, Path]]:
    """Yield name and path of every file that a controller needs, in a fixed order, without the user's own variables."""
    return ((name, path) for name, path in _files(root) if not _is_own(name, path))


def list_user_files(root: Path | None = None) -> list[str]:
    """Return the user's own files among those of the product: changed inventories and variables next to the playbooks."""
    return [name for name, path in _files(root) if _is_own(name, path)]


def require_product(manifest: Manifest, root: Path | None = None) -> None:
    """Raise BundleError where a product that was unpacked from a bundle has changed, added or missing files by that bundle's manifest.

    This finds files that somebody changed or added, not somebody who also changed this comparison. A checkout of git is its user's own,
    and a product of another version has other files: neither is compared.
    """
    folder = root or product_path("")
    if (folder / ".git").exists() or manifest.product != __version__:
        return
    listed = {file.path.removeprefix(PRODUCT): file.sha256 for file in manifest.files if file.path.startswith(PRODUCT)}
    signed = {name: sha256 for name, sha256 in listed.items() if not _has_variables(name)}
    present = {name: sha256_of(path) for name, path in _files(root) if not _has_variables(name)}
    wrong = [f"{name} was changed" for name in sorted(signed.keys() & present) if signed[name] != present[name]]
    wrong += [f"{name} was added" for name in sorted(present.keys() - signed)]
    wrong += [f"{name} is missing" for name in sorted(signed.keys() - present)]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BundleError(
            f"`{folder}` differs from the product of the bundle: {', '.join(wrong[:3])}{more}",
            hint="unpack it again into an empty folder: tar -xf BUNDLE product; for changes of your own use a git checkout",
        )


def _files(root: Path | None) -> Iterator[tuple[str, Path]]:
    for name in _PRODUCT:
        start = root / name if root else product_path(name)
        paths = sorted(start.rglob("*")) if start.is_dir() else [start]
        for path in paths:
            below = path.relative_to(start)
            if path.is_file() and not _LEFT_OUT & {*below.parts}:
                yield (Path(name) / below).as_posix(), path


def _has_variables(name: str) -> bool:
    return any(Path(name).is_relative_to(folder) for folder in _VARIABLES)


def _is_own(name: str, path: Path) -> bool:
    if not _has_variables(name):
        return False
    released: dict[str, str] = own_table(_INVENTORIES)["sha256"]
    return sha256_of(path) != released.get(name)


def controller_wheels(store: Store, settings: ClientSettings) -> list[Path]:
    """Fetch every wheel of the product's lock, for this processor and each Python that a controller may have. Raises StageError."""
    locked = [*read_lock(LOCK.read_text(encoding="utf-8"))]
    known = {sha256 for package in locked for sha256 in package.hashes}
    pinned = tuple(package.requirement for package in locked)
    sources = find_sources(settings)
    wanted = {}
    for python in PYTHONS:
        target = Target.of(f"{platform.machine()}-{_GLIBC}", python)
        wheels = choose_wheels(solve(SolveRequest(target, pinned), sources.variables), target)
        require_locked(wheels, known, LOCK)
        wanted.update({wheel.sha256: wheel for wheel in wheels})
    return sorted(fetch_wheels(wanted.values(), sources, store).values(), key=lambda path: path.name)
