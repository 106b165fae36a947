"""Which files the environments of each host need, so that pruning leaves them.

One small file a host: environment digest to the hashes of its files. Staging adds; what is no longer live or previous there is dropped only
once the host was seen to have gone on.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import quote

from provision.core.run_folder import write_atomically


class References:
    """The registry of one wheelhouse."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def environments(self, host: str) -> dict[str, list[str]]:
        """What is noted of a host; nothing when the note is absent or was damaged."""
        return _read(self._path(host))

    def add(self, host: str, environment: str, sha256s: Iterable[str]) -> None:
        """Note that an environment of the host needs these files; written only when that is new."""
        noted, wanted = self.environments(host), sorted(set(sha256s))
        if noted.get(environment) != wanted:
            self._write(host, {**noted, environment: wanted})

    def keep_only(self, host: str, environments: Collection[str]) -> None:
        """Drop every environment of the host but these."""
        noted = self.environments(host)
        kept = {environment: files for environment, files in noted.items() if environment in environments}
        if kept != noted:
            self._write(host, kept)

    def forget(self, host: str) -> None:
        """The host needs nothing any more (uninstalled, or gone from the inventory)."""
        self._path(host).unlink(missing_ok=True)

    def needed(self) -> set[str]:
        """Hashes of all files that any environment of any host needs."""
        return {sha256 for path in self._folder.glob("*.json") for files in _read(path).values() for sha256 in files}

    def _path(self, host: str) -> Path:
        return self._folder / f"{quote(host, safe='')}.json"

    def _write(self, host: str, environments: dict[str, list[str]]) -> None:
        write_atomically(self._path(host), json.dumps(environments))


def _read(path: Path) -> dict[str, list[str]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
