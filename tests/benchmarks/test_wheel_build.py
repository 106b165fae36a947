from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from benchmarks.wheel_build import DEFAULT, built, template, with_archs
from provision.phases.stage.builds.build_cache import BuildCache, BuiltWheel
from provision.phases.stage.wheelhouse import Store
from tests.builds.keys import make_key

PLAN = """nvcc = /usr/local/cuda/bin/nvcc
cuda_cflags = -I/env/include -I/source/csrc
cuda_post_cflags = -D__CUDA_NO_HALF_OPERATORS__ -O3 -gencode arch=compute_90,code=sm_90 --threads 1 -DTORCH_EXTENSION_NAME=x
cuda_dlink_post_cflags =
"""


def test_the_builds_own_command_is_used_and_only_its_architectures_change(tmp_path: Path) -> None:
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


def test_the_figures_of_a_finished_build_are_read_from_the_build_cache(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no flash-attn was built into"):
        built(tmp_path / "cache")
    store, log = Store(tmp_path / "cache"), tmp_path / "build.log"
    log.write_text("[1/73] nvcc one.cu\n[73/73] c++ -shared\n")
    for day, seconds in (("19", 7000.0), ("20", 6809.5)):
        content = f"wheel of day {day}".encode()
        (tmp_path / "flash_attn-2.8.3-cp312-cp312-linux_x86_64.whl").write_bytes(content)
        path = store.add(tmp_path / "flash_attn-2.8.3-cp312-cp312-linux_x86_64.whl")
        wheel = BuiltWheel(
            key=make_key(capabilities=("9.0",) if day == "20" else ("8.0",)),
            torch="2.8.0",
            name=path.name,
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            codes=("90",),
            builder="controller",
            built_at=f"2026-11-{day}T08:00:00Z",
            jobs=2,
            cpu_seconds=seconds,
            largest_process_gib=6.9,
            nvcc="12.8",
            log=str(log),
        )
        BuildCache(store).put(wheel)
    figures = built(tmp_path / "cache")
    assert (figures["cpu_seconds"], figures["units"], figures["codes"]) == (6809.5, 73, ["90"])
    assert "log" not in figures
