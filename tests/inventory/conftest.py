"""Inventories of one test, read as the product reads them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from provision.fleet.inventory import cache

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "cache")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write an inventory: hosts.yml, then other files by their path as `group_vars__gpu_yml`."""

    def written(hosts: str, **others: str) -> Path:
        folder = tmp_path / "site"
        folder.mkdir(exist_ok=True)
        (folder / "hosts.yml").write_text(hosts)
        for name, text in others.items():
            path = folder / name.replace("__", "/").replace("_yml", ".yml")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return folder

    return written
