"""Shell scripts for hosts, which lie beside the modules that send them."""

import shlex
from functools import cache
from pathlib import Path


def script_of(*files: Path, **parameters: str) -> str:
    """Return one script: its parameters as variables `FL_NAME`, then the files. Their comments stay here."""
    head = "".join(f"FL_{name.upper()}={shlex.quote(value)}\n" for name, value in parameters.items())
    return head + "".join(map(_without_comments, files))


@cache
def _without_comments(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").split("\n")
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))
