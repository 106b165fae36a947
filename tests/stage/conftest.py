from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site


@pytest.fixture
def site() -> Iterator[Site]:
    served = Site()
    yield served
    served.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", limit_bytes=1 << 40)


@pytest.fixture
def bare_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who configured nothing; returns the file of pip's that a test may write."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    (home / ".config/pip").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    pip = home / ".config/pip/pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(pip))
    return pip
