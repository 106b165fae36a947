"""Wheels as vLLM publishes them for a commit, with real libraries that have GPU code."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.stage.site import make_wheel
from tests.verify.test_elf import library
from tests.verify.test_gpu_code import EXACT, NATIVE, PTX, container, entry

VERSION = "0.33.1.dev5+g1a2b3c4d5"
TAG = "cp38-abi3-manylinux_2_28_x86_64"
TORCH = "torch==2.14.0"
CODE = container(entry(NATIVE, 52), entry(NATIVE, 90, EXACT), entry(NATIVE, 80), entry(PTX, 90))
FLASH_3 = container(entry(NATIVE, 90, EXACT))


def cuda_wheel(folder: Path, **changes: object) -> Path:
    """A CUDA 13 build with code for 8.0 and 9.0, and FlashAttention 3 for 9.0."""
    main = compiled(folder / "main", CODE, "libcudart.so.13")
    files = {
        "vllm/_C_stable_libtorch.abi3.so": main,
        "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so": compiled(folder / "fa3", FLASH_3, "libcudart.so.13"),
        "vllm/envs.py": b'VLLM_MAIN_CUDA_VERSION: str = "13.0"\n',
    }
    return wheel(folder, **({"files": files} | changes))  # type: ignore[arg-type]


def cpu_wheel(folder: Path, **changes: object) -> Path:
    """A build for CPUs from AVX2 on, with the metadata of the project's CPU builds."""
    built = compiled(folder / "cpu")
    files = {"vllm/_C.abi3.so": built, "vllm/_C_AVX2.abi3.so": built, "vllm/_C_AVX512.abi3.so": built}
    requires = ('torch==2.14.0+cpu; platform_machine == "x86_64"', 'torch==2.13.0; platform_system == "Darwin"')
    return wheel(folder, **({"files": files, "requires": requires, "version": f"{VERSION}.cpu"} | changes))  # type: ignore[arg-type]


def compiled(folder: Path, code: bytes = b"", linked: str = "") -> bytes:
    """The content of a real library."""
    folder.mkdir(parents=True, exist_ok=True)
    return library(folder, code, linked).read_bytes()


def wheel(
    folder: Path,
    *,
    files: Mapping[str, bytes],
    name: str = "vllm",
    version: str = VERSION,
    tag: str = TAG,
    requires: Iterable[str] = (TORCH, "flashinfer-python==0.7.2.post1"),
) -> Path:
    """Write a whole wheel."""
    file, content = make_wheel(name, version, requires=requires, tag=tag, python="<3.15,>=3.11", more=files)
    (folder / file).write_bytes(content)
    return folder / file
