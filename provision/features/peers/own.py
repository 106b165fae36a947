"""Files that a host gets by itself: from package indexes and a hub, or from a folder that it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.core.models.settings import Settings
from provision.core.models.staged import StagedFile
from provision.features.peers import program
from provision.fleet.ssh.session import Session
from provision.fleet.ssh.upload import check_space, list_remote, part_name

PROGRAM = Path(__file__).parent / "onhost" / "source.py"
Lacks = Callable[[str, str], None]
"""Called with the hash of a file that did not come, and why."""


@dataclass(frozen=True)
class Defaults:
    """What a host asks where neither the inventory nor its own settings name anything."""

    indexes: tuple[str, ...]
    hub: str


@dataclass(frozen=True)
class OwnFiles:
    """Files that a host is to get, under their names in transfer. `Session.send` verifies them and sends what is missing."""

    session: Session
    incoming: str
    """Its incoming folder."""
    files: Sequence[StagedFile]
    progress: Callable[[int], None]
    """Called with the bytes that came since the last call."""
    lacks: Lacks

    def fetch(self, settings: Settings, defaults: Defaults) -> None:
        """Let the host fetch them from its indexes and hub.

        Raises:
            SourceError: The host cannot do that.
            StageError: The disk is too small, or the incoming folder cannot be used.
            TransportError: The connection broke.
        """
        self._get(
            "host",
            {
                "indexes": settings.source_index,
                "default_indexes": defaults.indexes,
                "hub": settings.source_hub,
                "default_hub": defaults.hub,
            },
        )

    def copy(self, folder: str, sample: frozenset[str]) -> None:
        """Let the host copy them from a folder that it has; those of the sample, by hash, are checked there first, as far as it has them. Raises as `fetch`."""
        self._get("path", {"folder": folder, "sample": sorted(sample)})

    def _get(self, word: str, request: dict[str, Any]) -> None:
        remote = list_remote(self.session, self.incoming)
        wanted = [(file, remote.part(file)) for file in self.files if not remote.has(file)]
        wanted = [(file, offset) for file, offset in wanted if offset < file.size]
        if wanted:
            need = sum(file.size - offset for file, offset in wanted)
            check_space(f"host {self.session.host}", self.incoming, need, remote.free)
            files = [_row(file, offset) for file, offset in wanted]
            channel = program.start(self.session, self.incoming, PROGRAM, word)
            program.follow(self.session, channel, {**request, "files": files}, self.progress, self.lacks)


def _row(file: StagedFile, offset: int) -> dict[str, Any]:
    return {
        "name": file.name,
        "sha256": file.sha256,
        "size": file.size,
        "hub_path": file.hub_path,
        "offset": offset,
        "part": part_name(file),
    }
