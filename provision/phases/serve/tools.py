"""The programs that a host gets under PREFIX/bin for serving."""

from __future__ import annotations

import json
from pathlib import Path

from provision.core.tables import read_table
from provision.core.zipapp import kept, pack_zipapp

READY = "ready.pyz"

_ONHOST = Path(__file__).parent / "onhost"


def serve_tools(folder: Path) -> dict[str, Path]:
    """File name on the host to its path on the controller; ready.pyz is built into `folder` first."""
    ready = kept(folder / READY, (path for path in (_ONHOST / "ready").iterdir() if path.is_file()), ready_zipapp)
    scripts = {path.name: path for path in sorted(_ONHOST.glob("*.py")) if path.name != "__init__.py"}
    return {**scripts, READY: ready}


def ready_zipapp() -> bytes:
    """ready.pyz as bytes; its tables are JSON there, since Python reads TOML from 3.11 on alone."""
    folder = _ONHOST / "ready"
    files = {f"ready/{path.name}": path.read_bytes() for path in folder.glob("*.py")}
    files |= {f"ready/{path.stem}.json": json.dumps(read_table(path)).encode() for path in folder.glob("*.toml")}
    return pack_zipapp(files, main="ready.prove:main()")
