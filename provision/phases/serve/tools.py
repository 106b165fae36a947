"""Programs for serving under PREFIX/bin of a host."""

from __future__ import annotations

import json
from pathlib import Path

from provision.core.tables import read_table
from provision.core.zipapp import kept, pack_zipapp

READY = "ready.pyz"
PREFLIGHT = "preflight.pyz"
SPAN = "span.pyz"
ENTRY_POINTS = {READY: "ready.prove:main()", PREFLIGHT: "preflight.main:main()", SPAN: "span.main:main()"}

_ONHOST = Path(__file__).parent / "onhost"
ENGINE_TABLE = _ONHOST / "span" / "engine.toml"
"""What metrics of vLLM show; the health agent of a host behind a gateway has it too."""


def serve_tools(folder: Path) -> dict[str, Path]:
    """Return the path on the controller of each program, by its name on the host.

    Args:
        folder: Build folder of the packages; up-to-date ones are reused.
    """
    scripts = {path.name: path for path in sorted(_ONHOST.glob("*.py")) if path.name != "__init__.py"}
    return {**scripts, **{name: _build(folder, name) for name in ENTRY_POINTS}}


def _build(folder: Path, name: str) -> Path:
    sources = (path for path in (_ONHOST / Path(name).stem).iterdir() if path.is_file())
    return kept(folder / name, sources, lambda: serve_zipapp(name))


def serve_zipapp(name: str) -> bytes:
    """Return a package of programs as one file. Its tables become JSON, since Python before 3.11 reads no TOML."""
    folder = _ONHOST / Path(name).stem
    files = {f"{folder.name}/{path.name}": path.read_bytes() for path in folder.glob("*.py")}
    files |= {
        f"{folder.name}/{path.stem}.json": json.dumps(read_table(path)).encode() for path in folder.glob("*.toml")
    }
    return pack_zipapp(files, main=ENTRY_POINTS[name])
