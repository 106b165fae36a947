"""The product's tables are consistent, and every kind of mistake in them is found."""

import shutil
from pathlib import Path

import pytest

from provision.catalog import Catalog
from provision.catalog.load import FOLDER
from tests.catalog.consistency import check


def test_the_products_own_tables_are_consistent() -> None:
    assert check(Catalog()) == []


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        ("vllm", 'torch = "2.14.0"', 'torch = "9.9.0"', "vLLM 0.33.0: torch 9.9.0 has no row"),
        ("vllm", 'torch = "2.14.0"', 'torch = "2.10.0"', "vLLM 0.33.0: CUDA 13.0, but torch 2.10.0 is cu128"),
        ("vllm", 'cuda = "12.1"', 'cuda = "12.7"', "CUDA 12.7 has no row"),
        ("vllm", 'python = ">=3.8"', 'python = "3.8 or so"', "is not a version range"),
        ("vllm", 'version = "0.6.1"', 'version = "0.6.0"', "vLLM releases: 0.6.0 occurs 2 times"),
        ("vllm", 'date = "2024-09-05"', 'date = "in autumn"', "vLLM 0.6.0: `in autumn` is not a day"),
        ("bounds", 'specifier = ">=12.8"', 'specifier = "new"', "bound of cuda-python: `new` is not a version range"),
        ("bounds", '"2025-07-25 4.54"', '"4.54"', "timeline of transformers: `4.54` is not a day"),
        ("bounds", '"2025-07-25 4.54"', '"2025-07-25 4.5"', "timeline of transformers: days and versions do not both"),
        ("vllm_builds", 'version = "0.33.0"', 'version = "0.99.0"', "build cpu: vLLM 0.99.0 has no row"),
        ("vllm_builds", "gfx = [", "isa = [", "rocm7.2: no AMD architecture"),
        ("torch", 'cuda = ["cu118", "cu121"]', 'cuda = ["cu118", "cu127"]', "torch 2.1.0: CUDA 12.7 has no row"),
        ("torch", 'variant = "cu132"', 'variant = "cu131"', "0 rows name the GPU code of cu132"),
        ("gpus", 'compute_capability = "10.3"', 'compute_capability = "10.9"', "compute capability 10.9 has no row"),
        ("gpus", 'ids = ["3182"]', 'ids = ["2901"]', "PCI ids of NVIDIA GPUs: 2901 occurs 2 times"),
        ("attention", '"0.12.0"\nflag = "TRITON_ATTN"', '"0.13.0"\nflag = "TRITON_ATTN"', "2 spellings of TRITON_ATTN"),
        ("cuda", 'version = "580.178.04"', 'version = "565.57.01"', "driver 565.57.01: CUDA 13 needs 580.65.06"),
        ("cuda", 'version = "580.178.04"', 'version = "700.1.1"', "its branch has no row"),
        ("cuda", 'kind = "lts"\nend_of_life = "2028-06"', 'kind = "new-feature"', "gets fixes only for some months"),
        ("cuda", 'newest = "580.178.04"', 'newest = "580.180.01"', "580.180.01 is the newest of its branch"),
        ("cuda", 'compiler]]\ncuda = "12.1"', 'compiler]]\ncuda = "12.7"', "host compiler: CUDA 12.7 has no row"),
        ("flash_attn", 'torch = ">=2.2"', 'torch = "new"', "flash-attn 2.8.3.post2: `new` is not a version range"),
        ("flash_attn", 'variant = "cu132"', 'variant = "cu199"', "wheel of flash-attn 2.8.3: CUDA 19.9 has no row"),
        ("flash_attn", '"2.7", "2.8"]', '"2.7", "2.88"]', "a wheel for torch 2.88, which has no row"),
        (
            "packages",
            'repository = "nvidia-cuda"',
            'repository = "nvidia"',
            "component driver-open: repository nvidia for apt has no row",
        ),
        (
            "cuda",
            'newest = "595.91.07"',
            'newest = "595.71.05"',
            "advisory NVIDIA-5861 of nvidia-driver: 595.71.05, the newest of its branch, is below 595.91.07",
        ),
        (
            "packages",
            'nvidia-container-toolkit = "1.19.1"',
            'nvidia-container-toolkit = "1.19.0"',
            "the component allows 1.19.0, which is below 1.19.1",
        ),
        ("advisories", 'since = "0.8.3"', 'since = "0.14.1"', "CVE-2026-22778 of vllm: 0.14.1 does not follow 0.14.1"),
        ("advisories", '"Idefics3|SmolVLM"', '"Idefics3|(SmolVLM"', "`Idefics3|(SmolVLM` is not a pattern"),
        ("needs", 'family = "rocm"', 'family = "cuda"', "needs: rocm has no row"),
        (
            "rocm",
            'source = "vLLM 0.14.0 to 0.18.0',
            'source = "x"\n# ',
            "`x` is not a source that a person can look up",
        ),
    ],
)
def test_a_mistake_is_found(tmp_path: Path, file: str, before: str, after: str, message: str) -> None:
    for path in FOLDER.glob("*.toml"):
        shutil.copy(path, tmp_path)
    table = tmp_path / f"{file}.toml"
    text = table.read_text(encoding="utf-8")
    assert before in text
    table.write_text(text.replace(before, after, 1), encoding="utf-8")
    assert any(message in problem for problem in check(Catalog(tmp_path))), check(Catalog(tmp_path))
