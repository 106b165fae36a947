"""Every kind of disagreement between the catalog and the wheels is found."""

from __future__ import annotations

from pathlib import Path

from provision.catalog import Catalog
from provision.catalog.overlay import Overlay
from provision.catalog.refresh.compare import compare
from provision.catalog.refresh.index_wheels import WheelIndex
from tests.catalog_refresh.conftest import torch_wheel, vllm_wheel
from tests.stage.site import Site

SOURCE = "made for this test"
TORCH = {
    "version": "2.16.0",
    "python": ">=3.10",
    "pythons": ["3.12"],
    "glibc": "2.17",
    "default_x86_64": "cu130",
    "default_aarch64": "cpu",
    "cuda": ["cu130"],
    "cuda_aarch64": [],
    "rocm": [],
    "cxx11_abi": True,
    "source": SOURCE,
}
RELEASE = {
    "version": "0.40.0",
    "python": ">=3.11",
    "torch": "2.15.0",
    "cuda": "12.9",
    "glibc": "2.17",
    "machines": ["x86_64"],
    "core": ["80"],
    "torchvision": "0.29.0",
    "torchaudio": "2.11",
    "flashinfer": "0.7.0",
    "flashinfer_cubin": True,
    "source": SOURCE,
}


def test_each_field_that_differs_is_named(site: Site, index: WheelIndex) -> None:
    site.add_wheel(*torch_wheel("2.16.0", "cu132"))
    site.add_wheel(*torch_wheel("2.16.0", "cu132", machine="aarch64"))
    site.add_wheel(*vllm_wheel("0.40.0", "2.16.0"))
    site.add_wheel(*vllm_wheel("0.40.0", "2.16.0", machine="aarch64"))
    found = compare(Catalog(overlays=[Overlay(Path("x"), {"release": [RELEASE], "torch": [TORCH]})]), index)
    named = {(item.subject, item.field): (item.catalog, item.artifact) for item in found.differences}
    assert (found.releases, found.torches) == (1, 1)
    assert named[("vllm 0.40.0", "torch")] == ("2.15.0", "2.16.0")
    assert named[("vllm 0.40.0", "cuda")] == ("12.9", "13.2")
    assert named[("vllm 0.40.0", "machines")] == (("x86_64",), ("x86_64", "aarch64"))
    assert {field for subject, field in named if subject == "vllm 0.40.0"} == {
        "python",
        "torch",
        "machines",
        "torchvision",
        "flashinfer",
        "flashinfer_cubin",
        "cuda",
        "cuda major, by torch's own",
        "glibc, by the tag",
    }
    assert {field for subject, field in named if subject == "torch 2.16.0"} == {
        "python",
        "default_x86_64",
        "default_aarch64",
        "glibc, by the tag",
    }
    assert "vllm 0.33.0" in found.gone


def test_rows_that_agree_give_no_difference(site: Site, index: WheelIndex) -> None:
    site.add_wheel(*torch_wheel("2.16.0", "cu130", python="cp312"))
    agreeing = {**TORCH, "python": ">=3.11", "glibc": "2.28"}
    site.add_wheel(*torch_wheel("2.16.0", "cpu", machine="aarch64"))
    found = compare(Catalog(overlays=[Overlay(Path("x"), {"torch": [agreeing]})]), index)
    assert found.differences == ()
