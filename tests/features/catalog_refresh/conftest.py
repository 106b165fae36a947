"""A user whose only index is a small one on this machine, with wheels that look like vLLM's and torch's."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from provision.features.catalog_refresh.index_wheels import WheelIndex
from tests.stage.conftest import bare_client, site
from tests.stage.site import Site

__all__ = ["bare_client", "index", "site"]


def wheel(
    name: str, version: str, tag: str, *, requires: tuple[str, ...] = (), python: str = ">=3.11", **members: str
) -> tuple[str, bytes]:
    """A wheel's file name and content; `members` are further files, `__` in their names means `/`, without `.py`."""
    module = name.replace("-", "_")
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", f"Requires-Python: {python}"]
    text = "\n".join([*lines, *(f"Requires-Dist: {need}" for need in requires)]) + "\n"
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{module}/padding.bin", bytes(200_000))
        for member, content in members.items():
            archive.writestr(f"{member.replace('__', '/')}.py", content)
        archive.writestr(f"{module}-{version}.dist-info/METADATA", text)
    return f"{module}-{version}-{tag}.whl", buffer.getvalue()


def torch_wheel(version: str, variant: str, *, machine: str = "x86_64", python: str = "cp312") -> tuple[str, bytes]:
    return wheel(
        "torch",
        version,
        f"{python}-{python}-manylinux_2_28_{machine}",
        torch__version=f"__version__ = '{version}+{variant}'\ndebug = False\n",
    )


def vllm_wheel(version: str, torch: str, *, cuda: str = "13.2", machine: str = "x86_64") -> tuple[str, bytes]:
    return wheel(
        "vllm",
        version,
        f"cp38-abi3-manylinux_2_28_{machine}",
        python="<3.16,>=3.12",
        requires=(
            f"torch=={torch}",
            "flashinfer-python==0.8.0",
            'zentorch==9; extra == "zen"',
        ),
        vllm__envs=f'VLLM_MAIN_CUDA_VERSION: str = "{cuda}"\n',
    )


@pytest.fixture
def index(site: Site, bare_client: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WheelIndex]:
    monkeypatch.delenv("FIRSTLIGHT_CATALOG")
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\n", encoding="utf-8")
    found = WheelIndex()
    yield found
    found.close()
