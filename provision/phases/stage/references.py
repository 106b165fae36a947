"""The files that the environments of each host need; pruning keeps them.

One small JSON file a host maps environment digests to file hashes. Staging adds entries. An environment is dropped once the
host reports other ones as live and previous.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import quote

from provision.core.files import write_atomically


class References:
    """The references of one wheelhouse."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def environments(self, host: str) -> dict[str, list[str]]:
        """Return the recorded environments of a host; empty when the record is absent or damaged."""
        return _read(self._path(host))

    def add(self, host: str, environment: str, sha256s: Iterable[str]) -> None:
        """Record that an environment of the host needs these files. The record is written only when it changes."""
        noted, wanted = self.environments(host), sorted(set(sha256s))
        if noted.get(environment) != wanted:
            self._write(host, {**noted, environment: wanted})

    def keep_only(self, host: str, environments: Collection[str]) -> None:
        """Drop all other environments of the host."""
        noted = self.environments(host)
        kept = {environment: files for environment, files in noted.items() if environment in environments}
        if kept != noted:
            self._write(host, kept)

    def forget(self, host: str) -> None:
        """Drop all references of a host that was uninstalled or removed from the inventory."""
        self._path(host).unlink(missing_ok=True)

    def needed(self) -> set[str]:
        """Return the hashes of all files that any environment of any host needs."""
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
