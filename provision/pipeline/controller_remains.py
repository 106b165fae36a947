"""What an uninstallation of hosts leaves on this machine, the controller."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from provision.catalog import overlay
from provision.core.files import folder_bytes
from provision.core.folders import IS_INSTALLED, cache_folder, config_folder
from provision.core.formatting import format_bytes


def controller_remains(logs: Path) -> str:
    """Return the folders of this product on this machine as text: each with its size, and the command that removes it.

    Args:
        logs: The folder of the runs.
    """
    lines = [
        f"  remains: {path}, {format_bytes(size)} ({what}): rm -rf {shlex.quote(str(path))}"
        for path, what in _folders(logs)
        if (size := folder_bytes(path))
    ]
    return "\n".join(["this machine, from which the hosts were reached: nothing is removed", *lines])


def _folders(logs: Path) -> Iterator[tuple[Path, str]]:
    yield cache_folder().absolute(), "wheels, interpreters and models"
    yield logs.absolute(), "records of the runs"
    yield config_folder().absolute(), "keys of bundles, and rows of your package index"
    if not overlay.folder().is_relative_to(config_folder()):
        yield overlay.folder().absolute(), "rows of your package index"
    if not IS_INSTALLED and sys.prefix != sys.base_prefix:
        yield Path(sys.prefix), "the environment of ./firstlight"
