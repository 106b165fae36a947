from __future__ import annotations

from pathlib import Path

import pytest

from provision.features.wheel_builder.onbuilder.build_steps import Units

PLAN = """ninja_required_version = 1.3
cxx = c++
rule compile
  command = $cxx -c $in -o $out
rule cuda_compile
  command = $nvcc -c $in -o $out
build /b/one.o: compile /s/one.cpp
build /b/two.o: cuda_compile /s/two.cu
build /b/three.o: cuda_compile /s/three.cu
build all: phony /b/one.o
default /b/one.o /b/two.o /b/three.o
"""


@pytest.fixture
def reported(tmp_path: Path) -> tuple[Units, list[tuple[int, int]]]:
    plan = tmp_path / "build" / "temp.linux" / "build.ninja"
    plan.parent.mkdir(parents=True)
    plan.write_text(PLAN)
    seen: list[tuple[int, int]] = []
    return Units(tmp_path, lambda done, total: seen.append((done, total))), seen


def test_each_unit_is_counted(reported: tuple[Units, list[tuple[int, int]]]) -> None:
    units, seen = reported
    for line in ("running build_ext", "[1/3] c++ -c", "warning: [2/3] is no step", "[2/3] nvcc -c", "[3/3] nvcc -c"):
        units.see(line)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_resumed_build_continues_the_count(reported: tuple[Units, list[tuple[int, int]]]) -> None:
    units, seen = reported
    for line in ("[1/2] nvcc -c", "[2/2] nvcc -c"):
        units.see(line)
    assert seen == [(2, 3), (3, 3)]
