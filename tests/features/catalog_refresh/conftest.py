"""A user whose only index is a small one on this machine, with wheels that look like vLLM's and torch's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.features.catalog_refresh.index_wheels import WheelIndex
from tests.stage.conftest import bare_client, site
from tests.stage.site import Site, make_wheel

__all__ = ["bare_client", "index", "site"]


def torch_wheel(version: str, variant: str, *, machine: str = "x86_64", python: str = "cp312") -> tuple[str, bytes]:
    tag = f"{python}-{python}-manylinux_2_28_{machine}"
    more = {"torch/version.py": f"__version__ = '{version}+{variant}'\ndebug = False\n"}
    return make_wheel("torch", version, tag=tag, python=">=3.11", padding=200_000, more=more)


def vllm_wheel(version: str, torch: str, *, machine: str = "x86_64") -> tuple[str, bytes]:
    tag = f"cp38-abi3-manylinux_2_28_{machine}"
    requires = (f"torch=={torch}", "flashinfer-python==0.8.0", 'zentorch==9; extra == "zen"')
    more = {"vllm/envs.py": 'VLLM_MAIN_CUDA_VERSION: str = "13.2"\n'}
    return make_wheel("vllm", version, requires=requires, tag=tag, python="<3.16,>=3.12", padding=200_000, more=more)


@pytest.fixture
def index(site: Site, bare_client: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WheelIndex]:
    monkeypatch.delenv("FIRSTLIGHT_CATALOG")
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\n", encoding="utf-8")
    found = WheelIndex()
    yield found
    found.close()
