"""What a user's model answered in its last green run, kept on the host. A part of ready.pyz."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.files import read_json, write_atomically

from .service import ReadinessRequest


@dataclass(frozen=True)
class LastRun:
    """The file with the answers of one kind: `logprobs` or `vectors`."""

    request: ReadinessRequest
    kind: str
    asked: dict[str, Any]
    """Number type and question; answers to another one are not compared."""

    @property
    def path(self) -> Path:
        """Return where the answers are."""
        return Path(self.request.prefix) / "verify" / f"{self.kind}-{Path(self.request.model_folder).name}.json"

    def answers(self) -> dict[str, Any]:
        """Return the answers of the last green run; empty where it had other files, or was asked otherwise."""
        last = read_json(self.path)
        return last if all(last.get(name) == value for name, value in self._key().items()) else {}

    def keep(self, answers: dict[str, Any]) -> None:
        """Store the answers of a green run."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_atomically(
            self.path, json.dumps({**self._key(), "release": self.request.release, "at": at, **answers}) + "\n"
        )

    def _key(self) -> dict[str, Any]:
        files = (path for path in Path(self.request.model_folder).iterdir() if path.is_file())
        return {"model": sorted([path.name, path.stat().st_size] for path in files), **self.asked}
