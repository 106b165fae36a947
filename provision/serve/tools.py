"""The programs that a host gets under PREFIX/bin for serving."""

from __future__ import annotations

import io
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
    """ready.pyz as bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in (_ONHOST / "ready").iterdir() if path.suffix in (".py", ".toml")):
            archive.writestr(zipfile.ZipInfo(f"ready/{path.name}", _EPOCH), path.read_bytes())
        archive.writestr(zipfile.ZipInfo("__main__.py", _EPOCH), _ENTRY)
    return buffer.getvalue()
