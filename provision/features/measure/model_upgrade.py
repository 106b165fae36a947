"""The upgrade of a user's own model, by a Python of this machine that has torch."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from provision.core.errors import UsageError
from provision.core.folders import cache_folder, tools_folder
from provision.core.install_paths import default_prefix
from provision.phases.verify.tool import build_zipapp


def upgrade_model(arguments: Sequence[str], python: Path | None) -> int:
    """Run `verify upgrade` by a Python that has torch, without one that of this machine's installation, and return its exit code.

    Raises UsageError where there is no such Python.
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
    tool = build_zipapp(tools_folder(cache_folder()) / "verify.pyz")
    return subprocess.run([found, str(tool), "upgrade", *arguments], check=False).returncode
