from __future__ import annotations

from pathlib import Path

from benchmarks.forge import DEFAULT, template, with_archs

PLAN = """nvcc = /usr/local/cuda/bin/nvcc
cuda_cflags = -I/env/include -I/source/csrc
cuda_post_cflags = -D__CUDA_NO_HALF_OPERATORS__ -O3 -gencode arch=compute_90,code=sm_90 --threads 1 -DTORCH_EXTENSION_NAME=x
cuda_dlink_post_cflags =
"""


def test_the_build_s_own_command_is_taken_and_only_its_architectures_change(tmp_path: Path) -> None:
    plan = tmp_path / "source/flash_attn-2.8.3/build/temp/build.ninja"
    plan.parent.mkdir(parents=True)
    plan.write_text(PLAN)
    command, archs = template(tmp_path)
    assert archs == ["90"]
    one = command.format(folder="/s", unit="flash_fwd", object="/o/unit.o")
    assert one.startswith("/usr/local/cuda/bin/nvcc -I/env/include -I/source/csrc -c /s/flash_fwd.cu -o /o/unit.o ")
    four = with_archs(one, DEFAULT)
    assert [four.count(f"code=sm_{arch} ") for arch in DEFAULT] == [1, 1, 1, 1]
    assert set(one.split()) - set(four.split()) == set()
