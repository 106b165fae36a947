"""Programs for serving under PREFIX/bin of a host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from provision.core.folders import product_path
from provision.core.tables import read_table
from provision.core.zipapp import kept, pack_zipapp

READY = "ready.pyz"
PREFLIGHT = "preflight.pyz"
ENTRY_POINTS = {READY: "ready.prove:main()", PREFLIGHT: "preflight.main:main()"}

_ONHOST = Path(__file__).parent / "onhost"
SHARED = _ONHOST / "shared"
"""What an engine shows on its own host, for the programs that watch one."""
_TREE = product_path("provision").parent


def serve_tools(folder: Path) -> dict[str, Path]:
    """Return the path on the controller of each program, by its name on the host.

    Args:
        folder: Build folder of the packages; up-to-date ones are reused.
    """
    scripts = {path.name: path for path in sorted(_ONHOST.glob("*.py")) if path.name != "__init__.py"}
    return {
        **scripts,
        **{name: built(folder / name, _ONHOST / Path(name).stem, main) for name, main in ENTRY_POINTS.items()},
    }


def built(target: Path, package: Path, main: str, shared: Sequence[Path] = ()) -> Path:
    """Return a package of programs as one file, which is made where it is missing or older than its sources.

    Args:
        package: See `zipapp`, as of `main` and `shared`.
        main: What runs.
        shared: Other packages.
    """
    sources = (path for folder in (package, *shared) for path in folder.iterdir() if path.is_file())
    return kept(target, sources, lambda: zipapp(package, main, shared))


def zipapp(package: Path, main: str, shared: Sequence[Path] = ()) -> bytes:
    """Return a package of programs as one file.

    Args:
        package: Folder with the modules, and with tables, which become JSON since Python before 3.11 reads no TOML.
        main: What runs, as `MODULE:CALL`.
        shared: Folders of other packages that it imports; they keep their full names, such as `provision.phases`.
    """
    files = _files(package, package.name)
    for folder in shared:
        name = folder.relative_to(_TREE)
        files |= {f"{parent}/__init__.py": b"" for parent in name.parents if parent.name}
        files |= _files(folder, str(name))
    return pack_zipapp(files, main=main)


def _files(folder: Path, name: str) -> dict[str, bytes]:
    modules = {f"{name}/{path.name}": path.read_bytes() for path in folder.glob("*.py")}
    return modules | {
        f"{name}/{path.stem}.json": json.dumps(read_table(path)).encode() for path in folder.glob("*.toml")
    }
