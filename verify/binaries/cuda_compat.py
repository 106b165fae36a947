"""NVIDIA's forward compatibility libraries, for a Stack that uses them because the driver is too old."""

import os
import sys
from pathlib import Path
from typing import Any

from verify.files import read_json

SEARCH = "LD_LIBRARY_PATH"


def compat_folder(stack: Any) -> str | None:
    """Return the libraries' folder that a Stack names."""
    compat = stack.get("cuda_compat") if isinstance(stack, dict) else None
    return str(compat["folder"]) if isinstance(compat, dict) and compat.get("folder") else None


def restart_with_compat() -> None:
    """Restart this program with the compatibility libraries of its environment's Stack, unless it has them or needs none.

    The loader reads its search path only when a program starts.
    """
    folder = compat_folder(read_json(Path(sys.prefix) / "stack.json"))
    there = os.environ.get(SEARCH, "")
    if folder is None or folder in there.split(":"):
        return
    path = f"{folder}:{there}" if there else folder
    os.execve(sys.executable, sys.orig_argv, {**os.environ, SEARCH: path})  # noqa: S606 - this very program
