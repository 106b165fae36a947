"""The wheelhouse from which a bundle is made: it notes which cache entries are in use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provision.catalog.index.settings import without_credentials
from provision.features.bundle.manifest import CacheEntry
from provision.phases.stage.wheelhouse import Store

_LOCAL = frozenset({"manifests", "builds", "published"})
"""Kinds of cache entries that only this machine can use: hashes of local folders, sources of builds and downloads."""


class RecordingStore(Store):
    """A wheelhouse that records the cache entries that stage reads or writes, for the bundle."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._recorded: dict[tuple[str, str], dict[str, Any]] = {}

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        found = super().get(kind, key)
        if found is not None:
            self._recorded[kind, key] = found
        return found

    def put(self, kind: str, key: str, value: Mapping[str, Any]) -> Path:
        self._recorded[kind, key] = dict(value)
        return super().put(kind, key, value)

    def cache_entries(self) -> tuple[CacheEntry, ...]:
        """Return the entries that another machine can use, in a fixed order, without credentials."""
        return tuple(
            CacheEntry(kind=kind, key=key, value=json.loads(without_credentials(json.dumps(value))))
            for (kind, key), value in sorted(self._recorded.items())
            if kind not in _LOCAL
        )
