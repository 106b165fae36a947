"""The compilation of a kernel for AMD cards, with programs that stand in for the generator and hipcc."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rocm_compile import GENERATOR, compile_kernel, device_code

GENERATE = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
for name in ("fmha_fwd_d64_fp16_batch_x_nbias_nmask_nlse_ndropout_y", "fmha_fwd_d64_bf16_batch_x_nbias_nmask_nlse_ndropout_y"):
    (folder / f"{name}.cpp").write_text("")
"""


def test_the_chosen_kernel_is_compiled_for_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, programs = (tmp_path / name for name in ("source", "target", "bin"))
    for folder in (source / GENERATOR, target, programs):
        folder.mkdir(parents=True)
    (source / GENERATOR / "generate.py").write_text(GENERATE)
    (programs / "hipcc").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\n')
    (programs / "hipcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    kernel = compile_kernel(source, "gfx942", target)
    said = (tmp_path / "said").read_text()
    assert kernel.name == "fmha_fwd_d64_fp16_batch_x_nbias_nmask_nlse_ndropout_y.cpp"
    assert f"-c {kernel} -o {target}/kernel.o --offload-arch=gfx942 -fPIC -O3" in said
    assert f"-I{source / GENERATOR}" in said


def test_the_architectures_of_an_object_file_are_counted() -> None:
    entry = b"\x00hipv4-amdgcn-amd-amdhsa--%s\x00"
    assert device_code(b"host-x86_64" + entry % b"gfx942" + entry % b"gfx90a" + entry % b"gfx942") == {
        "gfx942": 2,
        "gfx90a": 1,
    }
    assert device_code(b"host-x86_64-unknown-linux") == {}
