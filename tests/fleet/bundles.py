"""A bundle that is made with a network, and a controller that has nothing but its file: no network, index, cache and .venv."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisign import KeyPair

from tests.fleet.command_runner import RUN_S, CommandRunner

NOWHERE = "http://127.0.0.1:9/simple"


@dataclass(frozen=True)
class OfflineController:
    """The product of a bundle, unpacked in a folder."""

    folder: Path
    bundle: Path
    public: Path
    """The key that it trusts."""

    @classmethod
    def made(cls, folder: Path, inventory: str) -> tuple[OfflineController, str]:
        """Make a bundle for the hosts of an inventory; return also what that printed."""
        pair = KeyPair.generate()
        key, made = folder / "site.key", cls(folder / "site", folder / "site.bundle", folder / "site.pub")
        key.write_bytes(bytes(pair.secret_key))
        made.public.write_bytes(bytes(pair.public_key))
        words = ("-i", inventory, "-o", str(made.bundle), "--key", str(key))
        created = CommandRunner(folder / "logs")("bundle", "create", *words)
        assert created.code == 0, created.output()
        made.folder.mkdir()
        subprocess.run(["tar", "-xf", str(made.bundle), "-C", str(made.folder), "product"], check=True)
        return made, created.out

    def provision(self, inventory: str) -> dict[str, Any]:
        """Return the summary of a run, which must succeed."""
        words = ["provision", "--bundle", str(self.bundle), "--trust", str(self.public), "-i", inventory]
        done = subprocess.run(
            [str(self.folder / "product/firstlight"), *words],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        summary: dict[str, Any] = json.loads((self.folder / "logs/latest/summary.json").read_text())
        return summary

    def _environment(self) -> dict[str, str]:
        """Return variables with index settings that point nowhere, and folders of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
        return kept | {
            "HOME": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "FIRSTLIGHT_CACHE": str(self.folder / "cache"),
            "FIRSTLIGHT_LOGS": str(self.folder / "logs"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": NOWHERE,
            "UV_DEFAULT_INDEX": NOWHERE,
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_CACHE_DIR": str(self.folder / "uv"),
        }
