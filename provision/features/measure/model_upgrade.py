"""The upgrade of a user's own model, by a Python of this machine that has torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from provision.core.errors import UsageError
from provision.core.install_paths import default_prefix

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """\
import sys
sys.path[0] = sys.argv.pop(1)
from verify.cli.main import main
sys.exit(main(["upgrade", *sys.argv[1:]]))
"""
"""The checkout comes in the place of the working directory, whose modules could have the names of ours."""


def upgrade_model(arguments: Sequence[str], python: Path | None) -> int:
    """Run `verify upgrade`, which speaks for itself on the terminal.

    Args:
        arguments: Its arguments.
        python: A Python that has torch; None is that of this machine's installation.

    Returns:
        Its exit code.

    Raises:
        UsageError: There is no such Python.
    """
    if not arguments or {"-h", "--help"} & set(arguments):  # needs no torch
        found = Path(sys.executable)
    else:
        found = python or Path(default_prefix(uid=os.getuid(), home=str(Path.home())) / "current/bin/python")
    if not os.access(found, os.X_OK):
        raise UsageError(
            f"`{found}` does not exist or is no program: the upgrade needs a Python that has torch",
            hint="install one with ./firstlight provision, or name yours with --python",
        )
    return subprocess.run([found, "-c", PROGRAM, str(ROOT), *arguments], check=False).returncode
