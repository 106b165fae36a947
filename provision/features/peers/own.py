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
        own = {"indexes": settings.source_index, "hub": settings.source_hub}
        self._get("host", {**own, "default_indexes": defaults.indexes, "default_hub": defaults.hub})

    def copy(self, folder: str, sample: frozenset[str]) -> None:
        """Let the host copy them from a folder that it has; those of the sample, by hash, are checked there first, as far as it has them. Raises as `fetch`."""
        self._get("path", {"folder": folder, "sample": sorted(sample)})

    def _get(self, word: str, request: dict[str, Any]) -> None:
        program.get_files(
            self.session,
            self.incoming,
            self.files,
            program=PROGRAM,
            word=word,
            request=request,
            progress=self.progress,
            lacks=self.lacks,
        )
