"""Shell scripts for hosts, which lie beside the modules that send them."""

import shlex
from pathlib import Path


def script_of(*files: Path, **parameters: str) -> str:
    """Return one script: its parameters as variables `FL_NAME`, then the files."""
    head = "".join(f"FL_{name.upper()}={shlex.quote(value)}\n" for name, value in parameters.items())
    return head + "".join(file.read_text(encoding="utf-8") for file in files)
