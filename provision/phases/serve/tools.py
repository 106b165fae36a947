"""Programs for serving under PREFIX/bin of a host."""

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
SHARED = (_ONHOST / "shared", product_path("verify") / "serving/samples.py")
"""What an engine shows on its own host, for the programs that watch one."""
_TREE = product_path("provision").parent
_SERVING = ("answers", "client", "processes", "samples", "service", "service_control", "service_plan", "vectors")
VERIFY = tuple(
    product_path("verify") / name
    for name in (
        *("data/serving.toml", "data/start_phases.toml", "files.py", "records.py", "tables.py"),
        *(f"serving/{name}.py" for name in _SERVING),
    )
)
"""What the checks of a service and the programs around its start have in common."""


def serve_tools(folder: Path) -> dict[str, Path]:
    """Return the path on the controller of each program, by its name on the host.

    Args:
        folder: Build folder of the packages; up-to-date ones are reused.
    """
    scripts = {path.name: path for path in sorted(_ONHOST.glob("*.py")) if path.name != "__init__.py"}
    return {
        **scripts,
        **{name: built(folder / name, _ONHOST / Path(name).stem, main, VERIFY) for name, main in ENTRY_POINTS.items()},
    }


def built(target: Path, package: Path, main: str, shared: Sequence[Path] = ()) -> Path:
    """Return what `zipapp` makes as a file, which is made where it is missing or older than its sources."""
    sources = (file for path in (package, *shared) for file in _sources(path))
    return kept(target, sources, lambda: zipapp(package, main, shared))


def zipapp(package: Path, main: str, shared: Sequence[Path] = ()) -> bytes:
    """Return a package of programs as one file.

    Args:
        package: Folder with the modules, and with tables, which become JSON since Python before 3.11 reads no TOML.
        main: What runs, as `MODULE:CALL`.
        shared: Folders of other packages that it imports, or files of these; they keep their full names, such as `provision.phases`.
    """
    files = dict(_entry(path, Path(package.name, path.name)) for path in _sources(package))
    for path in (file for each in shared for file in _sources(each)):
        name = path.relative_to(_TREE)
        files = {**{f"{parent}/__init__.py": b"" for parent in name.parents if parent.name}, **files}
        files |= [_entry(path, name)]
    return pack_zipapp(files, main=main)


def _sources(path: Path) -> list[Path]:
    """Return the modules and tables of a folder; a file itself."""
    return [*path.glob("*.py"), *path.glob("*.toml")] if path.is_dir() else [path]


def _entry(path: Path, name: Path) -> tuple[str, bytes]:
    if path.suffix == ".toml":
        return str(name.with_suffix(".json")), json.dumps(read_table(path)).encode()
    return str(name), path.read_bytes()
