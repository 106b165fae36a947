"""How stage works for a bundle, and from one: under one key for all index settings, and with what it looked up written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from provision.catalog.index.settings import ClientSettings, without_credentials
from provision.phases.stage.bundle.manifest import Remembered
from provision.phases.stage.wheelhouse import Store

_LOCAL = frozenset({"manifests", "forge", "published"})
"""What only this machine can use: hashes of files in its own folders, where its builds and downloads came from. The lock names their wheels."""


def sealed(settings: ClientSettings) -> ClientSettings:
    """The same settings, with stage's results kept under one key whatever they are: elsewhere they will be others."""
    return replace(settings, sealed=True)


class RecordingStore(Store):
    """A wheelhouse that notes what stage looked up or wrote down: the bundle carries it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._noted: dict[tuple[str, str], dict[str, Any]] = {}

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        found = super().get(kind, key)
        if found is not None:
            self._noted[kind, key] = found
        return found

    def put(self, kind: str, key: str, value: Mapping[str, Any]) -> Path:
        self._noted[kind, key] = dict(value)
        return super().put(kind, key, value)

    def noted(self) -> tuple[Remembered, ...]:
        """Everything that another machine can use, in a fixed order, without credentials in addresses."""
        return tuple(
            Remembered(kind=kind, key=key, value=json.loads(without_credentials(json.dumps(value))))
            for (kind, key), value in sorted(self._noted.items())
            if kind not in _LOCAL
        )
