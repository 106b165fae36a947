"""The programs that a host gets under PREFIX/bin for serving."""

from __future__ import annotations

import io
import json
import tomllib
import zipfile
from pathlib import Path

from provision.run import write_atomically

READY = "ready.pyz"

_ONHOST = Path(__file__).parent / "onhost"
_ENTRY = "import sys\n\nfrom ready.prove import main\n\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file can hold: the same sources make the same bytes, so that a host sees no change."""


def serve_tools(folder: Path) -> dict[str, Path]:
    """File name on the host to its path on the controller; ready.pyz is built into `folder` first."""
    content = ready_zipapp()
    if not (folder / READY).is_file() or (folder / READY).read_bytes() != content:
        write_atomically(folder / READY, content, mode=0o755)
    scripts = {path.name: path for path in sorted(_ONHOST.glob("*.py")) if path.name != "__init__.py"}
    return {**scripts, READY: folder / READY}


def ready_zipapp() -> bytes:
    """ready.pyz as bytes; its tables are JSON there, since Python reads TOML from 3.11 on alone."""
    folder = _ONHOST / "ready"
    files = {f"ready/{path.name}": path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    files |= {
        f"ready/{path.stem}.json": json.dumps(tomllib.loads(path.read_text(encoding="utf-8")))
        for path in folder.glob("*.toml")
    }
    files["__main__.py"] = _ENTRY
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
