from dataclasses import replace
from typing import Any

import pytest

from provision.features.wheel_builder.wheel_check import find_mismatches, find_unmet_requirements
from provision.phases.stage.extension import Extension, Library
from provision.phases.stage.solve import Target
from tests.features.wheel_builder.keys import make_key

LIBRARY = Library(
    machine="x86_64",
    needed=frozenset({"libcudart.so.12", "libc10.so", "libc.so.6"}),
    torch_symbols=frozenset(),
    glibc="2.32",
    codes=frozenset({"80", "90"}),
)
WHEEL = Extension(
    name="flash-attn",
    version="2.8.3+cu12torch2.8cxx11abitrue",
    own_version="2.8.3",
    pythons=frozenset({"cp312"}),
    platforms=frozenset({"linux_x86_64"}),
    requires=("torch", "einops"),
    requires_python=">=3.9",
    libraries=(("flash_attn_2_cuda.so", LIBRARY),),
)


def mismatches(library: dict[str, Any] | None = None, wheel: dict[str, Any] | None = None, **key: Any) -> list[str]:
    libraries = (("flash_attn_2_cuda.so", replace(LIBRARY, **(library or {}))),)
    changed: dict[str, Any] = {"libraries": libraries, **(wheel or {})}
    return find_mismatches(replace(WHEEL, **changed), make_key(**key), torch=None)


def test_the_wheel_of_a_key_has_no_mismatch() -> None:
    assert mismatches() == []


@pytest.mark.parametrize(
    ("wheel", "text"),
    [
        ({"version": "2.8.2+cu12torch2.8"}, "it is flash-attn 2.8.2+cu12torch2.8, not flash-attn 2.8.3"),
        ({"name": "flash-attn-3"}, "it is flash-attn-3 "),
        ({"pythons": frozenset({"cp311"})}, "it is for cp311, not cp312"),
        ({"platforms": frozenset({"linux_aarch64"})}, "it is for linux_aarch64, not x86_64"),
        ({"libraries": ()}, "it has no compiled extension"),
    ],
)
def test_metadata_names_the_target_of_a_wheel(wheel: dict[str, Any], text: str) -> None:
    assert any(fault.startswith(text) for fault in mismatches(wheel=wheel)), mismatches(wheel=wheel)


@pytest.mark.parametrize(
    ("library", "key", "text"),
    [
        ({"machine": "aarch64"}, {}, "flash_attn_2_cuda.so is for aarch64, not x86_64"),
        ({"needed": frozenset({"libcudart.so.13"})}, {}, "it is linked with libcudart.so.13, and the plan has cu12"),
        ({"glibc": "2.36"}, {}, "it needs glibc 2.36, and the oldest host has 2.35"),
        ({"glibc": "2.4"}, {"glibc": "2.17"}, None),
        ({"codes": frozenset({"80"})}, {}, "it has no native code for 9.0 (it has 80)"),
        ({"codes": frozenset({"p90"})}, {}, "it has no native code for 9.0 (it has p90)"),
        ({}, {"capabilities": ("8.6", "9.0")}, None),
    ],
)
def test_symbols_and_code_name_the_target_of_a_library(
    library: dict[str, Any], key: dict[str, Any], text: str | None
) -> None:
    found = mismatches(library=library, wheel={"version": "2.8.3"}, **key)
    assert found == [] if text is None else any(fault.startswith(text) for fault in found), found


def test_kernels_of_triton_need_no_compiled_extension() -> None:
    key = make_key(cuda_major=None, rocm="6.4", capabilities=("gfx1100",))
    wheel = replace(WHEEL, version="2.8.3", libraries=(), pythons=frozenset({"py3"}), platforms=frozenset({"any"}))
    assert find_mismatches(wheel, key, torch=None, compiled=False) == []


@pytest.mark.parametrize(
    ("requires", "text"),
    [
        (("torch", "einops"), []),
        (("torch==2.7.*",), ["it requires torch==2.7.*, and the lock has 2.8.0+cu128"]),
        (("torch", "numpy>=2"), ["it requires numpy>=2, and the lock has none"]),
        (("Ein.Ops",), ["it requires Ein.Ops, and the lock has none"]),
        (("tri_ton",), []),
        (('einops>9; python_version < "3.12"',), []),
        (('einops>9; platform_machine == "aarch64"',), []),
        (
            ('einops>9; python_version == "3.12"',),
            ['it requires einops>9; python_version == "3.12", and the lock has 0.8.2'],
        ),
        (('triton; extra == "test"', 'pywin32; sys_platform == "win32"'), []),
        (("to rch",), ["it has the invalid requirement `to rch`"]),
    ],
)
def test_the_lock_must_give_what_the_package_requires(requires: tuple[str, ...], text: list[str]) -> None:
    locked = {"torch": "2.8.0+cu128", "einops": "0.8.2", "tri-ton": "3.4"}
    assert find_unmet_requirements(replace(WHEEL, requires=requires), locked, Target("x86_64", 35, "3.12")) == text
