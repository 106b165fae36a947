"""Python zipapps for hosts; equal sources give equal bytes, so that a host sees no change."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from provision.core.files import write_atomically

LAUNCHER = b"#!/usr/bin/env python3\n"
MAIN = "import sys\n\nfrom {module} import {function}\n\nsys.exit({call})\n"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Earliest time that a zip file can store."""


def pack_zipapp(entries: Mapping[str, bytes], *, main: str) -> bytes:
    """Return a zipapp.

    Args:
        entries: Content of each file by its path.
        main: Call whose result is the exit code: `ready.prove:main()`.
    """
    module, _, call = main.partition(":")
    start = MAIN.format(module=module, function=call.partition("(")[0], call=call).encode()
    archive = io.BytesIO(LAUNCHER)
    archive.seek(0, io.SEEK_END)
    with zipfile.ZipFile(archive, "a") as file:
        for name, content in sorted({**entries, "__main__.py": start}.items()):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3  # Unix, on every build machine
            info.external_attr = 0o644 << 16
            file.writestr(info, content, zipfile.ZIP_DEFLATED, 9)
    return archive.getvalue()


def kept(target: Path, sources: Iterable[Path], build: Callable[[], bytes]) -> Path:
    """Build a program unless it and its sources are unchanged since the last build; their state is stored next to it."""
    noted = target.with_name(f"{target.name}.sources")
    look = repr(sorted((str(path), (stat := path.stat()).st_mtime_ns, stat.st_size) for path in sources))
    there = target.read_bytes() if target.is_file() else None
    if there is None or not noted.is_file() or noted.read_text(encoding="utf-8") != _note(there, look):
        content = build()
        if there != content:
            write_atomically(target, content, mode=0o755)
        write_atomically(noted, _note(content, look))
    return target


def _note(content: bytes, look: str) -> str:
    return f"{hashlib.sha256(content).hexdigest()} {look}"
