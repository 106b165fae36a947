"""Programs for serving under PREFIX/bin of a host."""

from __future__ import annotations

import json
from pathlib import Path

from provision.core.tables import read_table
from provision.core.zipapp import kept, pack_zipapp

READY = "ready.pyz"
PREFLIGHT = "preflight.pyz"
ENTRY_POINTS = {READY: "ready.prove:main()", PREFLIGHT: "preflight.main:main()"}

_ONHOST = Path(__file__).parent / "onhost"
ENGINE_TABLE = _ONHOST / "engine" / "engine.toml"
"""What metrics of vLLM show; the health agent of a host behind a gateway has it too."""


def serve_tools(folder: Path) -> dict[str, Path]:
    """Return the path on the controller of each program, by its name on the host.

    Args:
        folder: Build folder of the packages; up-to-date ones are reused.
    """
    scripts = {path.name: path for path in sorted(_ONHOST.glob("*.py")) if path.name != "__init__.py"}
    return {**scripts, **{name: _build(folder, name) for name in ENTRY_POINTS}}


def _build(folder: Path, name: str) -> Path:
    return built(folder / name, _ONHOST / Path(name).stem, ENTRY_POINTS[name])


def serve_zipapp(name: str) -> bytes:
    """Return one of these packages as one file."""
    return _zipapp(_ONHOST / Path(name).stem, ENTRY_POINTS[name])


def built(target: Path, package: Path, main: str) -> Path:
    """Return a package of programs as one file, which is made where it is missing or older than its sources.

    Args:
        target: The file.
        package: Folder with the modules, and with tables, which become JSON since Python before 3.11 reads no TOML.
        main: What runs, as `MODULE:CALL`.
    """
    sources = (path for path in package.iterdir() if path.is_file())
    return kept(target, sources, lambda: _zipapp(package, main))


def _zipapp(package: Path, main: str) -> bytes:
    files = {f"{package.name}/{path.name}": path.read_bytes() for path in package.glob("*.py")}
    files |= {
        f"{package.name}/{path.stem}.json": json.dumps(read_table(path)).encode() for path in package.glob("*.toml")
    }
    return pack_zipapp(files, main=main)
