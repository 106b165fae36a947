"""NVIDIA's forward compatibility libraries, where the Stack has them stand in for a driver that is too old: as the service loads them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

SEARCH = "LD_LIBRARY_PATH"


def compat_folder(stack: Any) -> str | None:
    """The libraries' folder that a Stack names."""
    compat = stack.get("cuda_compat") if isinstance(stack, dict) else None
    return str(compat["folder"]) if isinstance(compat, dict) and compat.get("folder") else None


def restart_with_compat() -> None:
    """Start this program anew with the libraries of its environment's Stack; nothing where there are none, or it has them.

    The loader reads its search path once, when a program starts.
    """
    try:
        folder = compat_folder(json.loads((Path(sys.prefix) / "stack.json").read_text()))
    except (OSError, ValueError):
        return  # no installation of ours: what is wrong with it is for the checks to say
    there = os.environ.get(SEARCH, "")
    if folder is None or folder in there.split(":"):
        return
    path = f"{folder}:{there}" if there else folder
    os.execve(sys.executable, sys.orig_argv, {**os.environ, SEARCH: path})  # noqa: S606 - this very program
