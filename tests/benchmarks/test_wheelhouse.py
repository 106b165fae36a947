"""The benchmark of the wheelhouse: files that are missing are stored again, and the limit holds after each run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import wheelhouse
from provision.phases.stage.wheelhouse import Store


def test_half_of_the_files_give_some_hits_and_some_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheelhouse, "RUNS", 4)
    monkeypatch.setattr(wheelhouse, "FILES_A_RUN", 25)
    store = Store(tmp_path, limit_bytes=1 << 30)
    stored = [wheelhouse.put(store, number) for number in range(40)]
    taken = sum(wheelhouse.size_of(store, sha256) for sha256, _ in stored)
    used = wheelhouse.use(tmp_path, stored)
    assert used["lookups"] == 100
    assert 0 < used["hits"] < 100
    assert sum(wheelhouse.size_of(store, sha256) for sha256, name in stored if store.peek(sha256, name)) <= taken / 2
