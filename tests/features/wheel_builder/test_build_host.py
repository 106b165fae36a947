"""Builds on this machine that need no compiler: failures, missing requirements, old programs."""

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from provision.core.errors import StageError
from provision.core.models.staged import StagedFile
from provision.features.wheel_builder import build_host
from provision.features.wheel_builder.build_host import BuildHost
from provision.features.wheel_builder.wheel_builder import CONTROLLER, WheelBuilder
from provision.phases.stage.solve import Target
from provision.phases.stage.wheelhouse import Store
from tests.features.wheel_builder.conftest import no_interpreter, open_local, set_facts
from tests.features.wheel_builder.standin import SETUP, standin_job
from tests.stage.stacks import PYTHON

pytestmark = pytest.mark.slow

BROKEN = """
print("[1/2] nvcc -c flash.cu")
print("flash.cu(3): error: identifier \'half9\' is undefined")
raise SystemExit(1)
"""


def wheel_builder_at(store: Store) -> WheelBuilder:
    return WheelBuilder(store, open_local, interpreter=no_interpreter)


def test_a_compiler_error_is_reported_and_the_next_run_builds(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"failed: the compilation failed:\n  flash\.cu\(3\): error:") as caught:
        wheel_builder_at(store).find_or_build(standin_job(tmp_path, store, python=PYTHON, setup=BROKEN), CONTROLLER)
    assert "build.log" in (caught.value.hint or "")
    [log] = store.root.glob("builds/*.log")
    assert "identifier 'half9' is undefined" in log.read_text()
    built = wheel_builder_at(store).find_or_build(standin_job(tmp_path, store, python=PYTHON, setup=SETUP), CONTROLLER)
    assert store.find(built.sha256, built.name)


def test_a_build_host_without_headers_gets_a_managed_python(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_facts(monkeypatch, python=None)
    home = tmp_path / "cpython-test"
    (home / "bin").mkdir(parents=True)
    (home / "bin/python3").symlink_to(Path(sys.executable).resolve())
    archive = tmp_path / "cpython-test.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", tmp_path, home.name], check=True)
    asked: list[Target] = []

    def interpreter(target: Target) -> StagedFile:
        asked.append(target)
        return store.staged(store.add(archive), "interpreter")

    builder = WheelBuilder(store, open_local, interpreter=interpreter)
    built = builder.find_or_build(standin_job(tmp_path, store, python=PYTHON), CONTROLLER)
    assert [target.python for target in asked] == [PYTHON]
    assert store.find(built.sha256, built.name)


@pytest.mark.parametrize(
    ("has", "key", "text"),
    [
        ({"machine": "aarch64"}, {}, "controller is aarch64, and the wheel is for x86_64"),
        ({"glibc": None}, {}, "controller has no glibc"),
        ({"hipcc": None}, {"capabilities": ("gfx942",)}, "controller has no hipcc"),
        ({"compiler": None}, {"capabilities": ("gfx942",)}, r"controller has no C\+\+ compiler"),
        (
            {"cuda_home": None},
            {"rocm": None, "cuda_major": 12, "capabilities": ("9.0",)},
            r"controller has no nvcc of CUDA 12\.8, which is published as wheels only from CUDA 13 on",
        ),
    ],
)
def test_a_missing_requirement_of_a_build_host_is_named_before_anything_is_fetched(
    store: Store, monkeypatch: pytest.MonkeyPatch, has: dict[str, object], key: dict[str, object], text: str
) -> None:
    whole = {
        "machine": "x86_64",
        "glibc": "2.36",
        "compiler": "c++ 12",
        "python": "/p",
        "cuda_home": None,
        "hipcc": "/h",
    }
    set_facts(monkeypatch, **whole | has)
    job = standin_job(store.root.parent, store, python=PYTHON)
    built_for = job.key.built_for.model_copy(update={"machine": "x86_64", **key})
    asked = job.key.model_copy(update={"built_for": built_for})
    job = replace(job, key=asked, cuda="12.8" if built_for.cuda_major else "")
    with pytest.raises(StageError, match=text):
        wheel_builder_at(store).find_or_build(job, CONTROLLER)


@pytest.mark.parametrize(
    "path", sorted((Path(build_host.__file__).parent / "onbuilder").glob("*.py")), ids=lambda path: path.stem
)
def test_the_program_reads_as_the_oldest_python_that_a_builder_may_have(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))


def test_a_build_host_that_cannot_run_the_program_is_an_error_with_the_reason(tmp_path: Path) -> None:
    silent = BuildHost(CONTROLLER, open_local(CONTROLLER), str(tmp_path), python="/nonexistent/python")
    with pytest.raises(StageError, match=r"controller cannot run the build program: .*not found"):
        silent.read_facts("3.12", "")
