"""A program for hosts as one file that their Python runs; the same sources give the same bytes, so that a host sees no change."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

LAUNCHER = b"#!/usr/bin/env python3\n"
MAIN = "import sys\n\nfrom {module} import {function}\n\nsys.exit({call})\n"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file can hold."""


def pyz(entries: Mapping[str, bytes], *, main: str) -> bytes:
    """The file of `entries` by their paths in it; `main` is the call that its exit code comes from: `ready.prove:main()`."""
    module, _, call = main.partition(":")
    start = MAIN.format(module=module, function=call.partition("(")[0], call=call).encode()
    archive = io.BytesIO(LAUNCHER)
    archive.seek(0, io.SEEK_END)
    with zipfile.ZipFile(archive, "a") as file:
        for name, content in sorted({**entries, "__main__.py": start}.items()):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3  # Unix, wherever it is built
            info.external_attr = 0o644 << 16
            file.writestr(info, content, zipfile.ZIP_DEFLATED, 9)
    return archive.getvalue()
